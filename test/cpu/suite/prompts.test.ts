/**
 * The project's own prompts: enough of them, well formed, all different, in the length the small checkpoint can hold,
 * and none of them one of the held-out rows that the checkpoint is judged on.
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Prompt } from '../../../harness/suite/prompt.ts';
import { loadSuites, SCENARIOS, type Suite } from '../../../harness/suite/suite.ts';
import { overlap, words } from './words.ts';

const ROOT = new URL('../../../suites', import.meta.url).pathname;
const GUARD = new URL('../../../../shared/data/HELDOUT_GUARD.txt', import.meta.url).pathname;

const suites = await loadSuites(ROOT);
const all = suites.flatMap((suite) => suite.prompts);
const asked = (prompt: Prompt) =>
  prompt.messages.filter((message) => message.role === 'user').map((message) => message.content);

describe.each(suites.map((suite) => [suite.scenario, suite] as const))('%s', (scenario, suite: Suite) => {
  test('holds at least 64 prompts with numbered ids', () => {
    expect(suite.prompts.length).toBeGreaterThanOrEqual(64);
    suite.prompts.forEach((prompt, i) => {
      expect(prompt.id).toBe(`${scenario}-${String(i + 1).padStart(3, '0')}`);
    });
  });

  test('has a SOURCE.md that names its count and digest', () => {
    const source = readFileSync(join(ROOT, scenario, 'SOURCE.md'), 'utf8');
    expect(source).toContain(`Prompts: ${suite.prompts.length}. Digest: \`${suite.digest}\``);
  });

  test('says of every prompt how hard it is and in which language it is written', () => {
    for (const { id, tags } of suite.prompts) {
      expect(
        tags.filter((tag) => /^lang:[a-z]{2}$/.test(tag)),
        id,
      ).toHaveLength(1);
      expect(
        tags.filter((tag) => ['easy', 'medium', 'hard'].includes(tag)),
        id,
      ).toHaveLength(1);
      expect(
        tags.every((tag) => !tag.startsWith('thinking:') || /^thinking:(on|off)$/.test(tag)),
        id,
      ).toBe(true);
    }
  });

  test('fits a context of 2,048 tokens with room to answer', () => {
    for (const prompt of suite.prompts) {
      const content = prompt.messages.map((message) => message.content).join('\n');
      if (scenario === 'agent')
        expect(JSON.stringify([prompt.messages, prompt.tools]).length, prompt.id).toBeLessThan(2600);
      else expect(words(content).length, prompt.id).toBeLessThanOrEqual(250);
    }
  });

  test('is tagged multi-turn exactly where there is an earlier answer', () => {
    for (const prompt of suite.prompts) {
      expect(prompt.tags.includes('multi-turn'), prompt.id).toBe(prompt.messages.some((m) => m.role === 'assistant'));
    }
  });
});

test('four suites, every id once', () => {
  expect(suites.map((suite) => suite.scenario)).toEqual([...SCENARIOS]);
  expect(new Set(all.map((prompt) => prompt.id)).size).toBe(all.length);
});

test('agent prompts offer tools, and about half of them have a history', () => {
  const agent = suites.find((suite) => suite.scenario === 'agent')!.prompts;
  expect(agent.every((prompt) => prompt.tools !== undefined)).toBe(true);
  const share = agent.filter((prompt) => prompt.tags.includes('multi-turn')).length / agent.length;
  expect(share).toBeGreaterThan(0.4);
  expect(share).toBeLessThan(0.7);
});

test('no two prompts ask the same: at most half of the 8-grams of one are in another', () => {
  const texts = all.map((prompt) => ({ id: prompt.id, text: asked(prompt).join('\n') }));
  const near = texts.flatMap((a, i) =>
    texts.filter((b, k) => k !== i && overlap(a.text, b.text) > 0.5).map((b) => `${a.id} is within ${b.id}`),
  );
  expect(near).toEqual([]);
});

test('the near-duplicate check sees a prompt with another number in it', () => {
  const a =
    'A garden hose fills a 90-liter barrel in 6 minutes. How long does the same hose need for a pool that holds 330 liters?';
  expect(overlap(a, a.replace('330', '480'))).toBeGreaterThan(0.5);
  expect(overlap('今天天气怎么样', '今天天气怎么样')).toBe(1);
});

if (!existsSync(GUARD))
  console.warn(`SKIPPED: no held-out prompt is in the suites (the list of hashes is not there: ${GUARD})`);
test.skipIf(!existsSync(GUARD))('no held-out prompt is in the suites', () => {
  const held = new Set(readFileSync(GUARD, 'utf8').split('\n'));
  // A text without any Latin word normalises to nothing and has no key.
  const key = (text: string) => {
    const normal = (text.toLowerCase().match(/[a-z0-9]+/g) ?? []).join(' ');
    return normal === '' ? null : createHash('sha256').update(normal).digest('hex').slice(0, 16);
  };
  expect(held.size).toBeGreaterThan(1000);
  const found = all.filter((prompt) => asked(prompt).some((text) => held.has(key(text) ?? '-')));
  expect(found.map((prompt) => prompt.id)).toEqual([]);
});
