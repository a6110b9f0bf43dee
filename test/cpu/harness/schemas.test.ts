/** The committed JSON Schemas are current, and a strict independent validator takes them and a real run's files. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import { SCHEMA_NAMES, type SchemaName, schemaText } from '../../../harness/bundle/schemas.ts';
import { rowsOf } from '../../support/bundle-files.ts';
import { scriptedAudit, withDirectory } from '../../support/scripted-audit.ts';

const ROOT = join(import.meta.dirname, '../../..');

function validator(name: SchemaName) {
  return new Ajv2020({ strict: true, allErrors: true }).compile(JSON.parse(schemaText(name)));
}

describe('published schemas', () => {
  it.each(SCHEMA_NAMES)('%s is what the definitions say (npm run schemas)', (name) => {
    expect(readFileSync(join(ROOT, `schemas/${name}.schema.json`), 'utf8')).toBe(schemaText(name));
  });

  it('accept every file of a run, and refuse a changed one', async () => {
    await withDirectory(async (directory) => {
      const run = join(directory, 'run');
      await scriptedAudit({ directory: run, plan: { lawSeeds: 5 } });
      const text = (file: string): string => readFileSync(join(run, file), 'utf8');
      const lines = (file: string): unknown[] => rowsOf(run, file);
      const check = (name: SchemaName, values: readonly unknown[]): void => {
        const valid = validator(name);
        for (const value of values) {
          if (!valid(value)) throw new Error(`${name}: ${JSON.stringify(valid.errors)}`);
        }
        expect(values.length).toBeGreaterThan(0);
      };
      check('manifest', [JSON.parse(text('manifest.json'))]);
      check('plan', [JSON.parse(text('plan.json'))]);
      check('tree', [JSON.parse(text('tree.json'))]);
      check('event', lines('events.jsonl'));
      check('report', [JSON.parse(text('report.json'))]);
      check('verdicts', [JSON.parse(text('verdicts.json'))]);
      check('prompt', lines('prompts.jsonl'));
      check('session', lines('sessions.jsonl'));
      check('round', lines('rounds.jsonl'));
      expect(validator('round')({ ...(lines('rounds.jsonl')[0] as object), accepted: -1 })).toBe(false);
      expect(validator('report')({ ...JSON.parse(text('report.json')), verdicts: [{ outcome: 'verified' }] })).toBe(
        false,
      );
    });
  });
});
