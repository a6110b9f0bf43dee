/** `kilotoken schema [name]`: the JSON Schemas of a run directory, of a fixture, and of a kernel bench. */
import type { Command } from 'commander';
import { benchKernelsSchemaText } from '../../harness/bench/kernels-schema.ts';
import { isSchemaName, SCHEMA_NAMES, schemaText } from '../../harness/bundle/schemas.ts';
import { InputError } from '../../harness/engine.ts';
import { fixtureSchemaText } from '../../harness/oracle/fixture.ts';
import { print } from '../support/output.ts';

export function schemaCommand(program: Command): void {
  program
    .command('schema')
    .argument('[name]', 'which one; without it their names are listed')
    .description(
      'print a JSON Schema (draft 2020-12) of what a run directory holds, of a fixture, or of a kernel bench',
    )
    .action((name?: string) => {
      const names = [...SCHEMA_NAMES, 'fixture', 'bench-kernels'];
      if (name === undefined) return names.forEach((known) => void print(known));
      if (name === 'fixture') process.stdout.write(fixtureSchemaText());
      else if (name === 'bench-kernels') process.stdout.write(benchKernelsSchemaText());
      else if (isSchemaName(name)) process.stdout.write(schemaText(name));
      else throw new InputError(`there is no schema "${name}"; there are ${names.join(', ')}`);
    });
}
