/** Builds the page in a folder of its own, as a child process, the way the command line does. */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const repository = fileURLToPath(new URL('../..', import.meta.url));

export interface SiteBuild {
  readonly code: number | null;
  /** Everything the build printed. */
  readonly output: string;
  readonly html: string;
  readonly folder: string;
}

/** `source` is a report.json or a folder of runs; `home` is where the page's folder `name` is made. */
export async function buildSite(source: string, home: string, name: string): Promise<SiteBuild> {
  const folder = join(home, name);
  mkdirSync(home, { recursive: true });
  const child = spawn(
    process.execPath,
    [join(repository, 'node_modules/astro/astro.js'), 'build', '--root', join(repository, 'site'), '--outDir', folder],
    { cwd: home, env: { ...process.env, KILOTOKEN_REPORT: source, ASTRO_TELEMETRY_DISABLED: '1', NO_COLOR: '1' } },
  );
  let output = '';
  child.stdout.on('data', (chunk) => {
    output += chunk;
  });
  child.stderr.on('data', (chunk) => {
    output += chunk;
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  const page = join(folder, 'index.html');
  return { code, output, html: existsSync(page) ? readFileSync(page, 'utf8') : '', folder };
}
