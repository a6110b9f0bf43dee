/** Bytes of the 1.02 T shape against the published counts and against the sizes that core/synthetic.h lays out. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import {
  expertBytes,
  globalLayers,
  gpuBytes,
  layersThatFit,
  PRO,
  stepBytes,
} from '../../../harness/bench/node/shape.ts';

describe('the shape', () => {
  it('has the numbers of core/synthetic.h', () => {
    const header = readFileSync(new URL('../../../core/synthetic.h', import.meta.url), 'utf8');
    const said = (name: string): number => Number(new RegExp(`uint32_t ${name} = (\\d+);`).exec(header)![1]);
    const names: [keyof typeof PRO, string][] = [
      ['layers', 'layers'],
      ['hidden', 'hidden'],
      ['qHeads', 'q_heads'],
      ['kvHeads', 'kv_heads'],
      ['headDim', 'head_dim'],
      ['valueDim', 'v_head_dim'],
      ['window', 'window'],
      ['experts', 'experts'],
      ['expertsPerToken', 'experts_per_token'],
      ['expertWidth', 'expert_width'],
      ['denseWidth', 'dense_width'],
      ['vocab', 'vocab'],
      ['draftLayers', 'draft_layers'],
      ['draftHeadDim', 'draft_head_dim'],
      ['draftWidth', 'draft_width'],
      ['draftTaps', 'draft_taps'],
    ];
    for (const [ours, theirs] of names) expect([theirs, PRO[ours]]).toEqual([theirs, said(theirs)]);
    const global = /synthetic_global_layer[\s\S]*?return ([^;]*);/.exec(header)![1]!;
    const layers = [...global.matchAll(/l == (\d+)/g)].map((match) => Number(match[1]));
    for (let n = 1; n <= 70; n++) expect(globalLayers(n)).toBe(layers.filter((layer) => layer < n).length);
  });

  it('adds up to the published sizes of the checkpoint', () => {
    // Experts of the FP4 checkpoint: 531,351,207,936 bytes of codes and scales.
    expect(69 * 384 * expertBytes('mxfp4')).toBe(531_351_207_936);
    const empty = { layers: 70, experts: 'mxfp4', context: 0 } as const;
    const plain = stepBytes({ ...empty, speculation: false, distinct: 0 });
    // E4M3 weights 11,670,650,880 + 301,989,888; their scales; O 14,092,861,440; routers and head.
    const scales = 70 * 216 * 48 * 4 + (2 * 128 * 48 + 48 * 128) * 4;
    expect(plain.fixed).toBe(11_972_640_768 + scales + 14_092_861_440 + 69 * 384 * 6144 * 4 + 1_874_853_888);
    // The draft's checkpoint has 5.54 GB; the output matrix is read once more.
    expect(stepBytes({ ...empty, speculation: true, distinct: 0 }).draft / 1e9).toBeCloseTo(5.54 + 1.87, 1);
  });

  it('reads what was worked out by hand for eight rows at 4K', () => {
    // 14.0 to 14.9 GB a GPU, the more with O in BF16, which is what is stored.
    const { total } = stepBytes({ layers: 70, experts: 'mxfp4', speculation: true, distinct: 59.5, context: 4096 });
    expect(total / 8 / 1e9).toBeGreaterThan(14.6);
    expect(total / 8 / 1e9).toBeLessThan(15.0);
    const kv = (context: number): number =>
      stepBytes({ layers: 70, experts: 'mxfp4', speculation: false, distinct: 8, context }).kv;
    // 51,200 bytes a position in ten global layers, and 39.3 MB of windows.
    expect(kv(131_072) - kv(4096)).toBe(51_200 * (131_072 - 4096));
    expect(kv(4096) - 51_200 * 4096).toBe(39_321_600);
  });
});

describe('memory', () => {
  const model = { experts: 'mxfp4', draft: true, maxContext: 132_000 } as const;

  it('falls with GPUs and rises with layers, context and format', () => {
    expect(gpuBytes({ ...model, layers: 70, gpus: 8 })).toBeLessThan(gpuBytes({ ...model, layers: 70, gpus: 4 }));
    expect(gpuBytes({ ...model, layers: 70, gpus: 8 })).toBeGreaterThan(gpuBytes({ ...model, layers: 69, gpus: 8 }));
    expect(gpuBytes({ ...model, experts: 'fp8', layers: 70, gpus: 8 }) / 1e9).toBeGreaterThan(125);
    expect(gpuBytes({ ...model, layers: 70, gpus: 8, maxContext: 4096 })).toBeLessThan(
      gpuBytes({ ...model, layers: 70, gpus: 8 }),
    );
  });

  it('says how many layers fit', () => {
    const free = 150e9;
    for (const gpus of [1, 2, 4, 8]) {
      const layers = layersThatFit({ ...model, gpus }, free);
      expect(gpuBytes({ ...model, gpus, layers })).toBeLessThanOrEqual(free);
      if (layers < 70) expect(gpuBytes({ ...model, gpus, layers: layers + 1 })).toBeGreaterThan(free);
    }
    expect(layersThatFit({ ...model, gpus: 8 }, free)).toBe(70);
    expect(layersThatFit({ ...model, gpus: 1 }, 10e9)).toBe(0);
  });
});
