/** Publishing copies a sealed bundle byte for byte, signature and all, and nothing that is changed, unsealed or one part of several. */
import { generateKeyPairSync } from 'node:crypto';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkBundle } from '../../../harness/bundle/check/check.ts';
import { mergeShards } from '../../../harness/bundle/merge.ts';
import { publishRun } from '../../../harness/bundle/publish.ts';
import { signBundle } from '../../../harness/bundle/sign.ts';
import type { Engine } from '../../../harness/engine.ts';
import { editDocument } from '../../support/bundle-files.ts';
import { scriptedAudit, scriptedPrompts } from '../../support/scripted-audit.ts';

let scratch: string;
let run: string;
let publicKey: string;

/** Scripted drafts are never published; for this test the card says they are real. */
const real = (engine: Engine): Engine => ({ ...engine, card: { ...engine.card, syntheticAcceptance: null } });
const SMALL = { prompts: scriptedPrompts(3), plan: { lawSeeds: 2, lawPrompts: 1, tokens: 8, sampledTokens: 4 } };

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-publish-'));
  run = join(scratch, 'run');
  await scriptedAudit({ directory: run, ...SMALL, change: real });
  const keys = generateKeyPairSync('ed25519');
  publicKey = keys.publicKey.export({ type: 'spki', format: 'pem' }) as string;
  signBundle(run, keys.privateKey.export({ type: 'pkcs8', format: 'pem' }) as string);
});

afterAll(() => rmSync(scratch, { recursive: true, force: true }));

describe('publish', () => {
  it('keeps every byte, so that tree and signature hold in the record', async () => {
    const to = await publishRun(run, join(scratch, 'record'));
    expect(readdirSync(to).sort()).toEqual(readdirSync(run).sort());
    for (const name of readdirSync(run)) {
      expect(readFileSync(join(to, name)).equals(readFileSync(join(run, name))), name).toBe(true);
    }
    const result = await checkBundle(to, { publicKey, build: null });
    expect(result.findings.filter((finding) => finding.level === 'difference')).toEqual([]);
    expect(result.signedBy).not.toBeNull();
    await expect(publishRun(run, join(scratch, 'record'))).rejects.toThrow(/append-only/);
  });

  it('refuses a bundle that is changed, unsealed or a shard', async () => {
    const record = join(scratch, 'other-record');
    const changed = join(scratch, 'changed');
    cpSync(run, changed, { recursive: true });
    editDocument<{ title: string }>(changed, 'manifest.json', (manifest) => {
      manifest.title = 'changed';
    });
    await expect(publishRun(changed, record)).rejects.toThrow(/is not the bundle that was sealed: manifest\.json/);
    rmSync(join(changed, 'tree.json'));
    await expect(publishRun(changed, record)).rejects.toThrow(/is not sealed/);
    const shard = join(scratch, 'shard');
    await scriptedAudit({ directory: shard, ...SMALL, change: real, input: { shard: { index: 1, of: 2 } } });
    await expect(publishRun(shard, record)).rejects.toThrow(/is one shard of a run/);
    expect(existsSync(record)).toBe(false);
  });

  it('refuses a quick look, in one piece, merged from shards or of a plan that does not say so yet', async () => {
    const record = join(scratch, 'quick-record');
    const because = /cannot be published: it is a quick look: run the audit again without --quick$/;
    const quick = { ...SMALL, plan: { ...SMALL.plan, quick: true as const }, change: real };
    const refused = async (name: string): Promise<void> =>
      expect(publishRun(join(scratch, name), record)).rejects.toMatchObject({
        name: 'InputError',
        message: expect.stringMatching(because),
      });
    await scriptedAudit({ directory: join(scratch, 'quick'), ...quick });
    await refused('quick');

    const shards = [1, 2].map((index) => join(scratch, `quick-${index}`));
    for (const [i, directory] of shards.entries())
      await scriptedAudit({ directory, ...quick, input: { shard: { index: i + 1, of: 2 } } });
    await mergeShards(shards, join(scratch, 'quick-merged'), 'kilotoken merge');
    await refused('quick-merged');

    cpSync(run, join(scratch, 'quick-once'), { recursive: true });
    editDocument<{ command: string }>(join(scratch, 'quick-once'), 'manifest.json', (manifest) => {
      manifest.command = 'kilotoken audit --quick --out runs/a';
    });
    await refused('quick-once');
    expect(existsSync(record)).toBe(false);
  });
});
