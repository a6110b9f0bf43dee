/**
 * Bytes of a sealed bundle: every byte of the documents that are small enough, a dense sample with a fixed seed of the others, every row
 * of every file, every file. The control is the bundle before and after, which is intact.
 */
import { generateKeyPairSync } from 'node:crypto';
import { cpSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readSignature, signatureDifferences, signBundle } from '../../../harness/bundle/sign.ts';
import { compareTrees, readTree, type Tree, treeOf } from '../../../harness/bundle/tree.ts';
import { ROW_FILES } from '../../../harness/bundle/writer.ts';
import { InputError } from '../../../harness/engine.ts';
import { sha256 } from '../../../harness/suite/canonical.ts';
import { rowsText, writeRowsText } from '../../support/bundle-files.ts';
import { check, checksOf } from '../../support/forger.ts';
import { scriptedAudit, scriptedPrompts } from '../../support/scripted-audit.ts';

let scratch: string;
let run: string;
let publicKey: string;
let sealed: Tree;

/** Not listed in the tree: these are the tree and the signature over it. */
const OUTSIDE = ['tree.json', 'signature.json'];

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-bytes-'));
  run = join(scratch, 'run');
  const plan = { lawSeeds: 1, lawPrompts: 1, tokens: 4, sampledTokens: 2 };
  await scriptedAudit({ directory: run, prompts: scriptedPrompts(2), plan });
  const keys = generateKeyPairSync('ed25519');
  publicKey = keys.publicKey.export({ type: 'spki', format: 'pem' }) as string;
  signBundle(run, keys.privateKey.export({ type: 'pkcs8', format: 'pem' }) as string);
  sealed = await treeOf(run);
});

afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** What the check says of the bytes when the file `name` holds `bytes`; the other files are as they were sealed. */
function seal(name: string, bytes: Uint8Array): string[] {
  try {
    const tree = readTree(run);
    const signature = readSignature(run);
    if (tree === null || signature === null) return ['no tree or no signature'];
    const files = sealed.files.map((file) =>
      file.path === name ? { path: name, sha256: sha256(bytes), bytes: bytes.length } : file,
    );
    return [...compareTrees(tree, { ...sealed, files }), ...signatureDifferences(signature, tree, publicKey)];
  } catch (error) {
    if (error instanceof InputError) return [error.message];
    throw error;
  }
}

/** Flips a bit of a file that is read from disk at every look, or of a copy of its bytes. */
function sealWithFlip(name: string, bytes: Buffer, offset: number, bit: number): string[] {
  bytes[offset]! ^= 1 << bit;
  try {
    if (OUTSIDE.includes(name)) writeFileSync(join(run, name), bytes);
    return seal(name, bytes);
  } finally {
    bytes[offset]! ^= 1 << bit;
    if (OUTSIDE.includes(name)) writeFileSync(join(run, name), bytes);
  }
}

async function flipped(name: string, offset: number, bit: number, use: () => Promise<void>): Promise<void> {
  const path = join(run, name);
  const bytes = readFileSync(path);
  bytes[offset]! ^= 1 << bit;
  writeFileSync(path, bytes);
  try {
    await use();
  } finally {
    bytes[offset]! ^= 1 << bit;
    writeFileSync(path, bytes);
  }
}

describe('a single changed bit', () => {
  it('has an intact bundle around it', async () => {
    expect(seal('none', Buffer.alloc(0))).toEqual([]);
    const result = await check(run);
    expect(result.outcome).toBe('intact');
    expect(result.signedBy).not.toBeNull();
  });

  it.each(['tree.json', 'signature.json', 'plan.json', 'manifest.json'])('in every byte of %s', (name) => {
    const bytes = readFileSync(join(run, name));
    expect(bytes.length).toBeGreaterThan(300);
    for (let offset = 0; offset < bytes.length; offset++) {
      if (sealWithFlip(name, bytes, offset, offset % 8).length === 0) {
        throw new Error(`bit ${offset % 8} of byte ${offset} of ${name} goes unseen`);
      }
    }
    expect(seal(name, bytes)).toEqual([]);
  });

  it('anywhere', async () => {
    const files = readdirSync(run).map((name) => ({ name, bytes: readFileSync(join(run, name)) }));
    const place = fc
      .constantFrom(...files)
      .chain(({ name, bytes }) =>
        fc.record({ name: fc.constant(name), offset: fc.nat(bytes.length - 1), bit: fc.nat(7) }),
      );
    fc.assert(
      fc.property(place, ({ name, offset, bit }) => {
        const { bytes } = files.find((file) => file.name === name)!;
        expect(sealWithFlip(name, bytes, offset, bit)).not.toEqual([]);
      }),
      { seed: 4, numRuns: 5000 },
    );
    // And through the whole check, which must also survive whatever the change made of the file.
    await fc.assert(
      fc.asyncProperty(place, ({ name, offset, bit }) =>
        flipped(name, offset, bit, async () => {
          const outcome = await check(run).then(
            (result) => result.outcome,
            (error: Error) => error.name,
          );
          expect(['different', 'InputError']).toContain(outcome);
        }),
      ),
      { seed: 5, numRuns: 25 },
    );
    expect((await check(run)).outcome).toBe('intact');
  });
});

describe('rows and files', () => {
  it('every dropped row and every pair of exchanged rows is named with its file', async () => {
    const copy = join(scratch, 'rows');
    cpSync(run, copy, { recursive: true });
    let seen = 0;
    for (const name of ROW_FILES) {
      const text = rowsText(run, name);
      const rows = text.split('\n').slice(0, -1);
      for (let i = 0; i < rows.length; i++) {
        const dropped = rows.filter((_, k) => k !== i);
        const exchanged = rows.map((row, k) => (k === i ? rows[i + 1] : k === i + 1 ? rows[i] : row));
        for (const changed of i + 1 < rows.length && rows[i] !== rows[i + 1] ? [dropped, exchanged] : [dropped]) {
          writeRowsText(copy, name, changed.map((row) => `${row}\n`).join(''));
          const differences = compareTrees(readTree(copy)!, await treeOf(copy));
          expect(differences.join()).toContain(`${name}.gz`);
          seen += 1;
        }
      }
      writeFileSync(join(copy, `${name}.gz`), readFileSync(join(run, `${name}.gz`)));
    }
    expect(seen).toBeGreaterThan(100);
    expect(compareTrees(readTree(copy)!, await treeOf(copy))).toEqual([]);
  });

  it('the same rows in another archive are other bytes, though the same rows', async () => {
    const copy = join(scratch, 'packed');
    cpSync(run, copy, { recursive: true });
    writeRowsText(copy, 'rounds.jsonl', rowsText(run, 'rounds.jsonl'));
    const result = await check(copy);
    expect(checksOf(result)).toEqual(['tree']);
    expect(result.rounds).toBeGreaterThan(0);
  });

  it('a missing, an added and an exchanged file', async () => {
    for (const name of readdirSync(run)) {
      const copy = join(scratch, `without-${name}`);
      cpSync(run, copy, { recursive: true });
      rmSync(join(copy, name));
      if (name === 'manifest.json') {
        expect(checksOf(await check(copy))).toEqual(expect.arrayContaining(['rows', 'tree']));
        continue;
      }
      const result = await check(copy);
      // Without its tree a bundle is not refuted, but it is not intact either; the signature then has nothing to be over.
      if (name === 'signature.json') expect(result).toMatchObject({ outcome: 'intact', signedBy: null });
      else expect(result.outcome).toBe('different');
    }
    const copy = join(scratch, 'added');
    cpSync(run, copy, { recursive: true });
    writeFileSync(join(copy, 'notes.txt'), 'x');
    expect((await check(copy)).findings.map((finding) => finding.text)).toContain(
      'notes.txt is not part of the bundle',
    );
    rmSync(join(copy, 'notes.txt'));
    renameSync(join(copy, 'faults.jsonl.gz'), join(copy, 'x'));
    renameSync(join(copy, 'telemetry.jsonl.gz'), join(copy, 'faults.jsonl.gz'));
    renameSync(join(copy, 'x'), join(copy, 'telemetry.jsonl.gz'));
    // Both are empty here, so this one exchange changes nothing.
    expect((await check(copy)).outcome).toBe('intact');
    renameSync(join(copy, 'prompts.jsonl.gz'), join(copy, 'x'));
    renameSync(join(copy, 'events.jsonl.gz'), join(copy, 'prompts.jsonl.gz'));
    renameSync(join(copy, 'x'), join(copy, 'events.jsonl.gz'));
    expect(checksOf(await check(copy))).toEqual(['rows', 'tree']);
  });

  it('the manifests of two bundles, exchanged', async () => {
    const other = join(scratch, 'other');
    const plan = { lawSeeds: 1, lawPrompts: 1, tokens: 4, sampledTokens: 2 };
    const input = { startedAt: new Date(1e12) };
    await scriptedAudit({ directory: other, prompts: scriptedPrompts(2), plan, input });
    const copy = join(scratch, 'swapped');
    cpSync(run, copy, { recursive: true });
    writeFileSync(join(copy, 'manifest.json'), readFileSync(join(other, 'manifest.json')));
    expect(checksOf(await check(copy))).toEqual(expect.arrayContaining(['events', 'tree']));
    expect((await check(other)).outcome).toBe('intact');
  });

  it('a signature of other bytes, of another key, and a key that was asked for', async () => {
    const { checkBundle } = await import('../../../harness/bundle/check/check.ts');
    const keys = generateKeyPairSync('ed25519');
    const other = keys.publicKey.export({ type: 'spki', format: 'pem' }) as string;
    const by = async (directory: string, key: string) =>
      checksOf(await checkBundle(directory, { publicKey: key, build: null }));
    expect(await by(run, publicKey)).toEqual([]);
    expect(await by(run, other)).toEqual(['signature']);
    const unsigned = join(scratch, 'unsigned');
    cpSync(run, unsigned, { recursive: true });
    rmSync(join(unsigned, 'signature.json'));
    expect(await by(unsigned, publicKey)).toEqual(['signature']);
    const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
    expect(() => signBundle(unsigned, rsa.privateKey.export({ type: 'pkcs8', format: 'pem' }) as string)).toThrow(
      /an Ed25519 key is needed, not rsa/,
    );
    expect(() => signBundle(unsigned, 'no key')).toThrow(/not a private key in PEM form/);
  });
});
