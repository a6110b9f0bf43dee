/**
 * Environment variables by which serving stacks force or assume acceptance: those of SGLang and TensorRT-LLM by name, others by
 * what their names say. One that is set when a process is timed is written down with it and shown beside its figures.
 */

const FORCED = [
  'SGLANG_SIMULATE_ACC_LEN',
  'SGLANG_SIMULATE_ACC_METHOD',
  'SGLANG_SIMULATE_ACC_TOKEN_MODE',
  'TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS',
] as const;

/** Any variable that names synthetic or simulated acceptance. */
const LIKELY = /(SYNTHETIC|SIMULATE|FORCE).*(ACC|ACCEPT)/i;
const OFF = new Set(['', '0', 'false', 'off', 'no']);

/** Names of such variables that are set and not off, sorted. Values are not kept. */
export function acceptanceSwitches(environment: Readonly<Record<string, string | undefined>>): string[] {
  return Object.entries(environment)
    .filter(([name, value]) => value !== undefined && !OFF.has(value.toLowerCase()) && isSwitch(name))
    .map(([name]) => name)
    .sort();
}

function isSwitch(name: string): boolean {
  return (FORCED as readonly string[]).includes(name) || LIKELY.test(name);
}
