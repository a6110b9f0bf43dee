/** Builds the static page of a run from its report.json. The site is run as a program: it sees the file and nothing else. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { EnvironmentError } from '../../harness/engine.ts';
import { ROOT } from './repository.ts';

/** The page of a run, inside its directory. */
export const PAGE_FOLDER = 'page';

/** False in a bundle, which has no site. */
export function hasPageBuilder(): boolean {
  return existsSync(join(ROOT, 'site'));
}

/** Returns the path of the page. Throws EnvironmentError when the site builder is missing or fails. */
export async function buildPage(directory: string): Promise<string> {
  const astro = join(ROOT, 'node_modules/astro/astro.js');
  if (!existsSync(astro)) throw new EnvironmentError('the page builder is not installed; run: npm run setup');
  const run = resolve(directory);
  const child = spawn(process.execPath, [astro, 'build', '--root', 'site', '--outDir', join(run, PAGE_FOLDER)], {
    cwd: ROOT,
    env: { ...process.env, KILOTOKEN_REPORT: join(run, 'report.json'), ASTRO_TELEMETRY_DISABLED: '1', NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
  }
  const code = await new Promise<number | null>((done, fail) => {
    child.once('error', fail);
    child.once('close', done);
  });
  const page = join(run, PAGE_FOLDER, 'index.html');
  if (code !== 0 || !existsSync(page)) {
    const lines = said.split('\n').filter((line) => line.trim() !== '');
    const reason = lines.find((line) => /error/i.test(line)) ?? lines.at(-1) ?? `exit code ${code}`;
    throw new EnvironmentError(`the page could not be built: ${reason.trim()}`);
  }
  return page;
}
