/**
 * A static page with nothing to fetch: styles are inlined, images are not processed, charts are SVG text.
 * KILOTOKEN_REPORT names the report.json to show, or a folder of runs; without it the newest of ../results is shown.
 * Audits of a folder get a page each. So do node benchmarks and kernel benches: those of ../results/node and ../results/bench, or of the
 * folders that KILOTOKEN_NODE and KILOTOKEN_KERNELS name; beside one report none.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { AstroIntegration } from 'astro';
import { defineConfig, passthroughImageService } from 'astro/config';
import { glossaryHeadings } from './src/lib/glossary.ts';
import { readKernels } from './src/lib/kernels.ts';
import { readLedger } from './src/lib/ledger.ts';
import { readNodeReports } from './src/lib/node.ts';
import { readReport } from './src/lib/report.ts';

// Astro asks its environment for this at every event, so setting it here is early enough for all but its first notice.
process.env.ASTRO_TELEMETRY_DISABLED ??= '1';

const results = fileURLToPath(new URL('../results', import.meta.url));
const ledger = fileURLToPath(new URL('../suites/claims.json', import.meta.url));
const source = process.env.KILOTOKEN_REPORT ? resolve(process.env.KILOTOKEN_REPORT) : results;

/** A folder that a variable names, else that of the record; with a report of one's own none. */
function folderOf(named: string | undefined, ofRecord: string): string {
  if (named) return resolve(named);
  return process.env.KILOTOKEN_REPORT ? '' : join(results, ofRecord);
}
const node = folderOf(process.env.KILOTOKEN_NODE, 'node');
const kernels = folderOf(process.env.KILOTOKEN_KERNELS, 'bench');

// Read here too, so that a report that cannot be shown ends the build before it begins.
readReport(source);
readLedger(ledger);
readNodeReports(node);
readKernels(kernels);

/**
 * LIMIT: with an --outDir outside the working directory Astro 5 stages its output in ./.astro, removes that folder when
 * nothing but pages was staged, and then fails to read it. A type file keeps the folder; Astro removes it with the rest.
 */
let outDir = '';
const keepStagingFolder: AstroIntegration = {
  name: 'keep-staging-folder',
  hooks: {
    'astro:config:done': ({ config }) => {
      outDir = fileURLToPath(config.outDir);
    },
    'astro:build:generated': async () => {
      if (outDir.startsWith(process.cwd())) return;
      await mkdir('.astro', { recursive: true });
      await writeFile('.astro/keep.d.ts', '');
    },
  },
};

export default defineConfig({
  integrations: [keepStagingFolder],
  output: 'static',
  compressHTML: true,
  devToolbar: { enabled: false },
  image: { service: passthroughImageService() },
  build: { inlineStylesheets: 'always', format: 'file' },
  markdown: { syntaxHighlight: false, smartypants: false, remarkPlugins: [glossaryHeadings] },
  vite: {
    define: {
      REPORT_SOURCE: JSON.stringify(source),
      LEDGER: JSON.stringify(ledger),
      NODE_SOURCE: JSON.stringify(node),
      KERNELS_SOURCE: JSON.stringify(kernels),
    },
  },
});
