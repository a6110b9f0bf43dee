/**
 * Builds the page in a folder of its own, as a child process, the way the command line does.
 *
 * NOTE: Astro loads what it built from the output folder, or from the working directory when the output lies outside it, so
 * one of the two must be inside the repository. Inside is also where builds cannot meet each other's staging folder.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const repository = fileURLToPath(new URL('../..', import.meta.url));

/** A new folder for builds, ignored by git. The caller removes it. */
export function siteWorkshop(): string {
  const dist = join(repository, 'site', 'dist');
  mkdirSync(dist, { recursive: true });
  return mkdtempSync(join(dist, 'test-'));
}

export interface SiteBuild {
  readonly code: number | null;
  /** Everything the build printed. */
  readonly output: string;
  readonly html: string;
  readonly folder: string;
}

/** `source` is a report.json or a folder of runs; `folder` is where the page goes. */
export async function buildSite(source: string, folder: string): Promise<SiteBuild> {
  const child = spawn(
    process.execPath,
    [join(repository, 'node_modules/astro/astro.js'), 'build', '--root', join(repository, 'site'), '--outDir', folder],
    {
      cwd: repository,
      env: { ...process.env, KILOTOKEN_REPORT: source, ASTRO_TELEMETRY_DISABLED: '1', NO_COLOR: '1' },
    },
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
