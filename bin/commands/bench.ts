/** `kilotoken bench ...`: what this machine gives, and what the stack makes of it. */
import type { Command } from 'commander';
import { benchKernelsCommand } from './bench/kernels.ts';
import { benchNodeCommand } from './bench/node.ts';

export function benchCommand(program: Command): void {
  const bench = program.command('bench').description('measure this machine and what the stack makes of it');
  benchKernelsCommand(bench);
  benchNodeCommand(bench);
}
