/** Writes harness/fixtures/*.json from their recipes. A test fails when a committed file is not what this would write. */
import { writeFileSync } from 'node:fs';
import { fixtureFiles } from '../harness/fixtures/make.ts';

for (const { file, text } of fixtureFiles()) {
  writeFileSync(`harness/fixtures/${file}`, text);
  process.stderr.write(`harness/fixtures/${file}\n`);
}
