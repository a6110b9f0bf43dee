/** Writes schemas/*.schema.json from the definitions. A test fails when a committed file is not what this would write. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { benchKernelsSchemaText } from '../harness/bench/kernels-schema.ts';
import { SCHEMA_NAMES, schemaText } from '../harness/bundle/schemas.ts';
import { figuresSchemaText } from '../harness/figures/ledger.ts';
import { mutantsSchemaText } from '../harness/mutants/schema.ts';
import { fixtureSchemaText } from '../harness/oracle/fixture.ts';

mkdirSync('schemas', { recursive: true });
for (const name of SCHEMA_NAMES) {
  writeFileSync(`schemas/${name}.schema.json`, schemaText(name));
  process.stderr.write(`schemas/${name}.schema.json\n`);
}
writeFileSync('schemas/bench-kernels.schema.json', benchKernelsSchemaText());
writeFileSync('schemas/figures.schema.json', figuresSchemaText());
writeFileSync('schemas/fixture.schema.json', fixtureSchemaText());
writeFileSync('schemas/mutants.schema.json', mutantsSchemaText());
