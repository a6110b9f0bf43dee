/** `kilotoken schema [name]`: the JSON Schemas of a run directory and of a fixture. */
import type { Command } from 'commander';
import { isSchemaName, SCHEMA_NAMES, schemaText } from '../../harness/bundle/schemas.ts';
import { InputError } from '../../harness/engine.ts';
import { fixtureSchemaText } from '../../harness/oracle/fixture.ts';
import { print } from '../support/output.ts';

export function schemaCommand(program: Command): void {
  program
    .command('schema')
    .argument('[name]', 'which one; without it their names are listed')
    .description('print a JSON Schema (draft 2020-12) of what a run directory holds, or of a fixture')
    .action((name?: string) => {
      const names = [...SCHEMA_NAMES, 'fixture'];
      if (name === undefined) return names.forEach((known) => void print(known));
      if (name === 'fixture') process.stdout.write(fixtureSchemaText());
      else if (isSchemaName(name)) process.stdout.write(schemaText(name));
      else throw new InputError(`there is no schema "${name}"; there are ${names.join(', ')}`);
    });
}
