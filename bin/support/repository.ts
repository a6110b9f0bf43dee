/** Where the repository lies and which commit it is at. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** The folder with package.json and suites/, above this file both in the source tree and in dist/. */
export const ROOT = findRoot(import.meta.dirname);

function findRoot(start: string): string {
  for (let folder = start; ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json')) && existsSync(join(folder, 'suites'))) return folder;
    if (folder === dirname(folder)) return start;
  }
}

export function repositoryState(): { readonly commit: string; readonly dirty: boolean } {
  try {
    const bundle = join(ROOT, 'bundle.json'); // written by scripts/bundle.mjs: what the archive was made of
    if (existsSync(bundle)) {
      const { commit, dirty } = JSON.parse(readFileSync(bundle, 'utf8')) as { commit: string; dirty: boolean };
      return { commit, dirty };
    }
    const git = (...args: string[]): string =>
      execFileSync('git', args, { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
    return { commit: git('rev-parse', 'HEAD'), dirty: git('status', '--porcelain') !== '' };
  } catch {
    return { commit: 'unknown', dirty: false };
  }
}
