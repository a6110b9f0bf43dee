/** A strict independent validator takes every file of a node benchmark's bundle by its published schema, and refuses a changed one. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { expect, it } from 'vitest';
import { type SchemaName, schemaText } from '../../../harness/bundle/schemas.ts';
import { rowsOf } from '../../support/bundle-files.ts';
import { fakeBench, withFolder } from './support.ts';

function validator(name: SchemaName) {
  return new Ajv2020({ strict: true, allErrors: true, strictTuples: false }).compile(JSON.parse(schemaText(name)));
}

it('every file fits its schema', async () => {
  await withFolder(async (folder) => {
    const run = join(folder, 'run');
    await fakeBench({ directory: run, options: { groups: ['headline', 'layers', 'collectives'] } });
    const document = (file: string): unknown => JSON.parse(readFileSync(join(run, file), 'utf8'));
    const check = (name: SchemaName, values: readonly unknown[]): void => {
      const valid = validator(name);
      for (const value of values) if (!valid(value)) throw new Error(`${name}: ${JSON.stringify(valid.errors)}`);
      expect(values.length).toBeGreaterThan(0);
    };
    check('node-manifest', [document('manifest.json')]);
    check('node-plan', [document('plan.json')]);
    check('node-report', [document('report.json')]);
    check('tree', [document('tree.json')]);
    check('node-round', rowsOf(run, 'rounds.jsonl'));
    check('node-generation', rowsOf(run, 'generations.jsonl'));
    check('node-trace', rowsOf(run, 'traces.jsonl'));
    check('node-model', rowsOf(run, 'models.jsonl'));
    check('node-floor', rowsOf(run, 'floors.jsonl'));
    check('node-collective', rowsOf(run, 'collectives.jsonl'));
    const events = rowsOf<{ kind: string }>(run, 'events.jsonl');
    check('event', events);
    const looks = events.filter(({ kind }) => kind === 'gpu-look');
    check('gpu-look', looks);
    expect(validator('gpu-look')({ ...looks[0], gpus: [] })).toBe(false);
    const [round] = rowsOf<object>(run, 'rounds.jsonl');
    expect(validator('node-round')({ ...round, a: -1 })).toBe(false);
    expect(validator('node-round')({ ...round, ns: [1] })).toBe(false);
    expect(validator('node-generation')({ ...rowsOf<object>(run, 'generations.jsonl')[0], model: '' })).toBe(false);
  });
});
