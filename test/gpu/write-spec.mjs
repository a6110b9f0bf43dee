/**
 * A checkpoint's plan and tensor map as lines of text, for the test programs that run where there is no Node (spec_file.h reads them). Paths
 * are relative to the repository. Usage: node test/gpu/write-spec.mjs <checkpoint> <file>; needs dist/ (npm run build:ts).
 */
import { writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import { openCheckpoint } from '../../dist/native/checkpoint/index.js';

const [directory, file] = process.argv.slice(2);
const c = await openCheckpoint(directory);
const here = (path) => relative(process.cwd(), path);
const flag = (value) => (value ? 1 : 0);
const heads = (a) => [a.qHeads, a.kvHeads, a.headDim, a.vHeadDim, a.rotaryDim, a.ropeTheta, a.window, flag(a.sink)];
const tensors = (word, map) =>
  [...map.values()].map((t) => [word, t.name, t.dtype, t.shape.length, ...t.shape, here(t.file), t.offset, t.bytes]);

const lines = [
  [
    'target',
    ...[c.hidden, c.vocab, c.eps, c.valueScale, c.experts, c.topK, flag(c.normTopK), c.routedScale, c.maxContext],
    c.headTensor,
  ],
  ...c.layers.map((l) => [
    'layer',
    ...heads(l.attention),
    l.attention.fusedGroups,
    flag(l.ffn.kind === 'moe'),
    l.ffn.width,
  ]),
  ...tensors('tensor', c.tensors),
];
if (c.draft !== null) {
  const d = c.draft;
  lines.push(
    ['draft', d.layers, ...heads(d), d.eps, d.valueScale, d.ffnWidth, d.blockSize, d.maskTokenId],
    ['taps', d.targetLayerIds.length, ...d.targetLayerIds],
    ['mask', d.maskEmbedding.length, ...d.maskEmbedding],
    ...tensors('draft_tensor', d.tensors),
  );
}
writeFileSync(file, `${lines.map((line) => line.join(' ')).join('\n')}\n`);
