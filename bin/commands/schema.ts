/** `kilotoken schema [name]`: the JSON Schemas of a run directory. */
import type { Command } from 'commander';
import { isSchemaName, SCHEMA_NAMES, schemaText } from '../../harness/bundle/schemas.ts';
import { InputError } from '../../harness/engine.ts';
import { print } from '../support/output.ts';

export function schemaCommand(program: Command): void {
  program
    .command('schema')
    .argument('[name]', 'which one; without it their names are listed')
    .description('print a JSON Schema (draft 2020-12) of what a run directory holds')
    .action((name?: string) => {
      if (name === undefined) return SCHEMA_NAMES.forEach((known) => void print(known));
      if (!isSchemaName(name))
        throw new InputError(`there is no schema "${name}"; there are ${SCHEMA_NAMES.join(', ')}`);
      process.stdout.write(schemaText(name));
    });
}
