/**
 * `kilotoken bench kernels`: the floors of this GPU, every operation of the stack beside them, and, from a file of peers/run.py, what a user
 * would pick instead. Each is checked before it is timed.
 */
import type { Command } from 'commander';
import { checkBenchKernels, readBenchKernels, readPeers } from '../../../harness/bench/kernels-check.ts';
import { deriveFigures } from '../../../harness/bench/kernels-figures.ts';
import { BENCH_KERNELS_SCHEMA_ID, type BenchKernels, type Peers, Raw } from '../../../harness/bench/kernels-schema.ts';
import { sections } from '../../../harness/bench/kernels-table.ts';
import { InputError } from '../../../harness/engine.ts';
import { jsonOf } from '../../../harness/input.ts';
import { measureKernels } from '../../../native/bench.ts';
import { EXIT } from '../../support/exit.ts';
import { outputFile } from '../../support/options.ts';
import { note, paint, print, table, writeOutput } from '../../support/output.ts';
import { repositoryState } from '../../support/repository.ts';

interface Options {
  readonly json?: string;
  readonly peers?: string;
  readonly from?: string;
}

export function benchKernelsCommand(bench: Command): void {
  bench
    .command('kernels')
    .description("this GPU's floors, and the stack's operations as a share of its read rate")
    .option('--json <file>', 'also write every sample and figure as one JSON document', outputFile)
    .option('--peers <file>', 'print what peers/run.py measured on this GPU beside it')
    .option('--from <file>', 'measure nothing: derive and check the figures of a stored document, and print them')
    .action(async (options: Options) => {
      if (options.from !== undefined && options.peers !== undefined)
        throw new InputError('--peers goes with a measurement; a document of --from has its own peers or none');
      const result =
        options.from === undefined
          ? await measure(options)
          : readBenchKernels(jsonOf(options.from), `${options.from}: no kernel bench`);
      printResult(result);
      if (options.json !== undefined) writeOutput(options.json, `${JSON.stringify(result)}\n`);
      const findings = checkBenchKernels(result);
      for (const finding of findings) note(`${paint('red', 'difference')}  ${finding}`);
      if (findings.length > 0) process.exitCode = EXIT.refuted;
    });
}

async function measure(options: Options): Promise<BenchKernels> {
  const peers: Peers | null =
    options.peers === undefined ? null : readPeers(jsonOf(options.peers), `${options.peers}: no file of peers/run.py`);
  const { gpu, build, floors, operations, layers } = await measureKernels((stage) => note(`measuring: ${stage}`));
  if (peers !== null && peers.device !== gpu.name)
    throw new InputError(`the peers were measured on ${peers.device}, this is ${gpu.name}`);
  const raw = Raw.parse({ floors, operations, layers, peers });
  const { name, capability, driverCuda, runtimeCuda, memory } = gpu;
  return {
    schema: BENCH_KERNELS_SCHEMA_ID,
    made: new Date().toISOString(),
    ...repositoryState(),
    build,
    gpu: { name, capability, driverCuda, runtimeCuda, memory },
    raw,
    figures: deriveFigures(raw),
  };
}

function printResult(result: BenchKernels): void {
  print(`${result.gpu.name}, ${result.raw.floors.blocks} multiprocessors; commit ${result.commit.slice(0, 7)}`);
  for (const { title, rows, right } of sections(result)) {
    print('');
    print(paint('bold', title));
    print(table(rows, right));
  }
  const leftOut = result.raw.peers?.leftOut ?? [];
  if (leftOut.length > 0) print(`\nLeft out among the peers: ${leftOut.length}; the document says why`);
}
