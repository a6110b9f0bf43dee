/** `kilotoken export BUNDLE`: a run for other tools, as Parquet tables or under the names of vLLM's benchmark files. */
import { existsSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { makeFolder, writeWhole } from '../../harness/bundle/disk.ts';
import { exportTables } from '../../harness/bundle/export/tables.ts';
import { vllmResult } from '../../harness/bundle/export/vllm.ts';
import { readRun } from '../../harness/bundle/reader.ts';
import type { Arm } from '../../harness/bundle/rows.ts';
import { InputError } from '../../harness/engine.ts';
import { runDirectory } from '../support/options.ts';
import { print } from '../support/output.ts';

interface Options {
  readonly format: 'parquet' | 'vllm';
  readonly out: string;
  readonly phase?: string;
  readonly cell?: string;
  readonly arm: Arm;
}

export function exportCommand(program: Command): void {
  program
    .command('export')
    .argument('<bundle>', 'a run directory', runDirectory)
    .description('write a run for other tools')
    .addOption(new Option('--format <format>', 'what to write').choices(['parquet', 'vllm']).makeOptionMandatory())
    .requiredOption('--out <path>', 'folder for the tables, or file for the vLLM result; must not exist')
    .option('--phase <id>', 'vllm: the sessions of this phase')
    .option('--cell <id>', 'vllm: the measured sessions of this timed cell')
    .addOption(new Option('--arm <arm>', 'vllm: which side').choices(['plain', 'speculative']).default('speculative'))
    .action(async (bundle: string, options: Options) => {
      const { phase = null, cell = null, arm } = options;
      if (options.format === 'vllm' && (phase === null) === (cell === null)) {
        throw new InputError('name one --phase or one --cell for --format vllm');
      }
      const out = resolve(options.out);
      if (existsSync(out)) throw new InputError(`${options.out} is there already`);
      const run = await readRun(bundle);
      if (options.format === 'parquet') {
        for (const path of exportTables(run, out)) print(path);
        return;
      }
      makeFolder(dirname(out));
      writeWhole(out, `${JSON.stringify(vllmResult(run, { phase, cell, arm }))}\n`);
      print(out);
    });
}
