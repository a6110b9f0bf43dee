/**
 * Named ways to break a good checkpoint on disk, each with what the one-line refusal must mention. The input is a folder as
 * writeSyntheticCheckpoint makes it (several shards, FP8 linears, MXFP4 experts, draft).
 */
import { copyFile, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Config } from './synthetic-checkpoint.ts';
import { shardBytes } from './write-safetensors.ts';
import { maskSidecarBytes, torchZip } from './write-torch.ts';

export interface Corruption {
  readonly name: string;
  /** The message must match. */
  readonly mentions: RegExp;
  /** Only reading the values shows it: openCheckpoint passes, loading an engine refuses. */
  readonly inValues?: true;
  apply(directory: string): Promise<void>;
}

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

type Header = Record<string, Entry>;

interface Shard {
  readonly file: string;
  readonly header: Header;
  readonly data: Buffer;
}

async function readShard(file: string): Promise<Shard> {
  const bytes = await readFile(file);
  const headerBytes = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerBytes)) as Header;
  return { file, header, data: bytes.subarray(8 + headerBytes) };
}

async function shardWith(directory: string, tensor: string): Promise<Shard> {
  for (const name of (await readdir(directory)).sort()) {
    if (!name.endsWith('.safetensors')) continue;
    const shard = await readShard(path.join(directory, name));
    if (tensor in shard.header) return shard;
  }
  throw new Error(`no shard holds ${tensor}`);
}

async function firstShard(directory: string): Promise<string> {
  const names = (await readdir(directory)).filter((name) => name.endsWith('.safetensors')).sort();
  return path.join(directory, names[0]!);
}

/** Rewrites the shard that holds `tensor`; a Buffer returned by `edit` replaces the data section. */
async function editHeader(
  directory: string,
  tensor: string,
  edit: (entry: Entry, header: Header, data: Buffer) => unknown,
): Promise<void> {
  const shard = await shardWith(directory, tensor);
  const edited = edit(shard.header[tensor]!, shard.header, shard.data);
  const data = Buffer.isBuffer(edited) ? edited : shard.data;
  await writeFile(shard.file, shardBytes(JSON.stringify(shard.header), [data]));
}

async function editText(file: string, edit: (text: string) => string): Promise<void> {
  await writeFile(file, edit(await readFile(file, 'utf8')));
}

async function editJson(file: string, edit: (json: Config) => void): Promise<void> {
  await editText(file, (text) => {
    const json = JSON.parse(text) as Config;
    edit(json);
    return JSON.stringify(json);
  });
}

/** Replaces the stored bytes of one tensor by others, of any length; later tensors move. */
function replaceData(header: Header, data: Buffer, tensor: string, bytes: Buffer): Buffer {
  const [begin, end] = header[tensor]!.data_offsets;
  const grown = bytes.length - (end - begin);
  for (const [name, entry] of Object.entries(header)) {
    if (name !== '__metadata__' && entry.data_offsets[0] >= end) {
      entry.data_offsets = [entry.data_offsets[0] + grown, entry.data_offsets[1] + grown];
    }
  }
  header[tensor]!.data_offsets = [begin, begin + bytes.length];
  return Buffer.concat([data.subarray(0, begin), bytes, data.subarray(end)]);
}

const INDEX = 'model.safetensors.index.json';
const QKV = 'model.layers.1.self_attn.qkv_proj.weight';
const QKV_SCALE = 'model.layers.1.self_attn.qkv_proj.weight_scale_inv';
const EXPERT = 'model.layers.2.mlp.experts.5.up_proj.weight';
const EXPERT_SCALE = 'model.layers.2.mlp.experts.5.up_proj.weight_scale';
const NORM = 'model.norm.weight';

async function configField(directory: string, field: string, value: unknown): Promise<void> {
  await editJson(path.join(directory, 'config.json'), (json) => {
    if (value === undefined) delete json[field];
    else json[field] = value;
  });
}

function config(name: string, field: string, value: unknown, mentions: RegExp): Corruption {
  return { name, mentions, apply: (directory) => configField(directory, field, value) };
}

function quantization(name: string, field: string, value: unknown, mentions: RegExp): Corruption {
  return {
    name,
    mentions,
    apply: (directory) =>
      editJson(path.join(directory, 'config.json'), (json) => {
        (json.quantization_config as Config)[field] = value;
      }),
  };
}

/** Lays `top` over the draft's config and `inner` over its dflash_config. */
function draftConfig(name: string, top: Config, inner: Config, mentions: RegExp): Corruption {
  return {
    name,
    mentions,
    apply: (directory) =>
      editJson(path.join(directory, 'dflash', 'config.json'), (json) => {
        Object.assign(json, top);
        Object.assign(json.dflash_config as Config, inner);
      }),
  };
}

function sidecar(name: string, bytes: Buffer, mentions: RegExp): Corruption {
  return {
    name,
    mentions,
    apply: (directory) => writeFile(path.join(directory, 'dflash', 'mask_embedding.pt'), bytes),
  };
}

function setByte(name: string, tensor: string, code: number, mentions: RegExp): Corruption {
  return {
    name,
    mentions,
    inValues: true,
    apply: (directory) =>
      editHeader(directory, tensor, (entry, _header, data) => {
        data[entry.data_offsets[0] + 3] = code;
      }),
  };
}

const evilPickle = Buffer.concat([
  Buffer.from([0x80, 2]),
  Buffer.from('cos\nsystem\n'),
  Buffer.from([0x58, 4, 0, 0, 0]),
  Buffer.from('true'),
  Buffer.from([0x85]),
  Buffer.from('R.'),
]);

export const CORRUPTIONS: readonly Corruption[] = [
  {
    name: 'shard truncated in its data',
    mentions: /model-00001-of-00003\.safetensors.*truncated/,
    apply: async (directory) => {
      const file = await firstShard(directory);
      await truncate(file, (await readFile(file)).length - 100);
    },
  },
  {
    name: 'shard truncated in its header',
    mentions: /model-00001-of-00003\.safetensors.*truncated/,
    apply: async (directory) => truncate(await firstShard(directory), 300),
  },
  {
    name: 'empty shard',
    mentions: /model-00001-of-00003\.safetensors.*truncated/,
    apply: async (directory) => truncate(await firstShard(directory), 0),
  },
  {
    name: 'huge header length',
    mentions: /model-00001-of-00003\.safetensors.*header of 18446744073709551615 bytes/,
    apply: async (directory) => {
      const file = await firstShard(directory);
      const bytes = await readFile(file);
      bytes.fill(0xff, 0, 8);
      await writeFile(file, bytes);
    },
  },
  {
    name: 'header that is a JSON array',
    mentions: /model-00001-of-00003\.safetensors.*"\{"/,
    apply: async (directory) => writeFile(await firstShard(directory), shardBytes('[1,2,3]', [])),
  },
  {
    name: 'header that is not JSON',
    mentions: /model-00001-of-00003\.safetensors.*JSON/,
    apply: async (directory) => writeFile(await firstShard(directory), shardBytes('{"a": }', [])),
  },
  {
    name: 'header that is not UTF-8',
    mentions: /model-00001-of-00003\.safetensors.*UTF-8/,
    apply: async (directory) => {
      const file = await firstShard(directory);
      const bytes = await readFile(file);
      bytes[12] = 0xff;
      await writeFile(file, bytes);
    },
  },
  {
    name: 'duplicate tensor name',
    mentions: /twice/,
    apply: async (directory) => {
      const { file, header, data } = await shardWith(directory, QKV);
      const again = `"${QKV}":${JSON.stringify(header[QKV])}`;
      await writeFile(file, shardBytes(`{${again},${JSON.stringify(header).slice(1)}`, [data]));
    },
  },
  {
    name: 'duplicate field in an entry',
    mentions: /twice/,
    apply: async (directory) => {
      const { file, header, data } = await shardWith(directory, QKV);
      const text = JSON.stringify(header).replace('"dtype":', '"dtype":"I8","dtype":');
      await writeFile(file, shardBytes(text, [data]));
    },
  },
  {
    name: 'overlapping tensors',
    mentions: /tensor ".*" overlaps tensor ".*"/,
    apply: (directory) =>
      editHeader(directory, NORM, (entry, header) => {
        const other = Object.values(header).find((item) => item !== entry && 'shape' in item)!;
        entry.data_offsets = [
          other.data_offsets[0],
          other.data_offsets[0] + (entry.data_offsets[1] - entry.data_offsets[0]),
        ];
      }),
  },
  {
    name: 'hole between tensors',
    mentions: /unused bytes/,
    apply: (directory) =>
      editHeader(directory, NORM, (entry, header, data) => {
        const [begin] = entry.data_offsets;
        for (const item of Object.values(header)) {
          if ('shape' in item && item.data_offsets[0] >= begin) {
            item.data_offsets = [item.data_offsets[0] + 16, item.data_offsets[1] + 16];
          }
        }
        return Buffer.concat([data.subarray(0, begin), Buffer.alloc(16), data.subarray(begin)]);
      }),
  },
  {
    name: 'bytes after the last tensor',
    mentions: /unused bytes after the last tensor/,
    apply: (directory) =>
      editHeader(directory, NORM, (_entry, _header, data) => Buffer.concat([data, Buffer.alloc(8)])),
  },
  {
    name: 'offsets beyond the file',
    mentions: /model\.norm\.weight.*beyond/,
    apply: (directory) =>
      editHeader(directory, NORM, (entry) => {
        entry.data_offsets = [2 ** 40, 2 ** 40 + 320];
      }),
  },
  {
    name: 'negative offset',
    mentions: /model\.norm\.weight.*data_offsets/,
    apply: (directory) =>
      editHeader(directory, NORM, (entry) => {
        entry.data_offsets = [-8, 312];
      }),
  },
  {
    name: 'offsets in the wrong order',
    mentions: /model\.norm\.weight.*end before they begin/,
    apply: (directory) =>
      editHeader(directory, NORM, (entry) => {
        entry.data_offsets = [entry.data_offsets[1], entry.data_offsets[0]];
      }),
  },
  {
    name: 'offsets that do not match dtype and shape',
    mentions: /model\.norm\.weight.*needs 322 bytes/,
    apply: (directory) =>
      editHeader(directory, NORM, (entry) => {
        entry.shape = [161];
      }),
  },
  {
    name: 'shape whose size overflows',
    mentions: /model\.norm\.weight.*needs/,
    apply: (directory) =>
      editHeader(directory, NORM, (entry) => {
        entry.shape = [2 ** 40, 2 ** 40];
      }),
  },
  {
    name: 'unknown dtype',
    mentions: /model\.norm\.weight.*unknown dtype "Q4_K"/,
    apply: (directory) =>
      editHeader(directory, NORM, (entry) => {
        entry.dtype = 'Q4_K';
      }),
  },
  {
    name: 'wrong dtype of a norm',
    mentions: /model\.norm\.weight.*expected dtype BF16 or F32, found F16/,
    apply: (directory) =>
      editHeader(directory, NORM, (entry) => {
        entry.dtype = 'F16';
      }),
  },
  {
    name: 'wrong dtype of a linear',
    mentions: /model\.layers\.1\.self_attn\.qkv_proj\.weight.*expected dtype .*found F8_E5M2/,
    apply: (directory) =>
      editHeader(directory, QKV, (entry) => {
        entry.dtype = 'F8_E5M2';
      }),
  },
  {
    name: 'transposed shape',
    mentions: /qkv_proj\.weight.*expected shape \[352, 160\], found \[160, 352\]/,
    apply: (directory) =>
      editHeader(directory, QKV, (entry) => {
        entry.shape.reverse();
      }),
  },
  {
    name: 'FP8 scale rows that do not restart per group',
    mentions: /qkv_proj\.weight_scale_inv.*expected shape \[4, 2\], found \[3, 2\]/,
    apply: (directory) =>
      editHeader(directory, QKV_SCALE, (entry, header, data) => {
        entry.shape = [3, 2];
        return replaceData(header, data, QKV_SCALE, Buffer.alloc(24, 1));
      }),
  },
  {
    name: 'FP8 scale of the wrong dtype',
    mentions: /qkv_proj\.weight_scale_inv.*expected dtype F32, found I32/,
    apply: (directory) =>
      editHeader(directory, QKV_SCALE, (entry) => {
        entry.dtype = 'I32';
      }),
  },
  {
    name: 'MXFP4 scale of the wrong shape',
    mentions: /experts\.5\.up_proj\.weight_scale.*expected shape \[96, 5\], found \[5, 96\]/,
    apply: (directory) =>
      editHeader(directory, EXPERT_SCALE, (entry) => {
        entry.shape = [5, 96];
      }),
  },
  {
    name: 'MXFP4 weight stored unpacked',
    mentions: /experts\.5\.up_proj\.weight.*expected shape \[96, 80\], found \[96, 160\]/,
    apply: (directory) =>
      editHeader(directory, EXPERT, (entry, header, data) => {
        entry.shape = [96, 160];
        return replaceData(header, data, EXPERT, Buffer.alloc(96 * 160));
      }),
  },
  {
    name: 'missing scale tensor',
    mentions: /experts\.5\.up_proj\.weight_scale.*missing/,
    apply: async (directory) => {
      await editHeader(directory, EXPERT_SCALE, (_entry, header, data) => {
        const rest = replaceData(header, data, EXPERT_SCALE, Buffer.alloc(0));
        delete header[EXPERT_SCALE];
        return rest;
      });
      await editJson(path.join(directory, INDEX), (json) => {
        delete (json.weight_map as Config)[EXPERT_SCALE];
      });
    },
  },
  {
    name: 'a bias the architecture does not have',
    mentions: /q_proj\.bias.*not part of the model/,
    apply: async (directory) => {
      const extra = 'model.layers.0.self_attn.q_proj.bias';
      const shard = await shardWith(directory, NORM);
      shard.header[extra] = { dtype: 'BF16', shape: [4], data_offsets: [shard.data.length, shard.data.length + 8] };
      await writeFile(shard.file, shardBytes(JSON.stringify(shard.header), [shard.data, Buffer.alloc(8)]));
      await editJson(path.join(directory, INDEX), (json) => {
        (json.weight_map as Config)[extra] = path.basename(shard.file);
      });
    },
  },
  {
    name: 'missing tensor, still in the index',
    mentions: /index\.json.*model\.norm\.weight.*no shard holds it/,
    apply: (directory) =>
      editHeader(directory, NORM, (_entry, header, data) => {
        const rest = replaceData(header, data, NORM, Buffer.alloc(0));
        delete header[NORM];
        return rest;
      }),
  },
  {
    name: 'missing shard',
    mentions: /model-00001-of-00003\.safetensors: not found/,
    apply: async (directory) => rm(await firstShard(directory)),
  },
  {
    name: 'tensor listed in a wrong shard',
    mentions:
      /index\.json.*model\.norm\.weight.*is listed in "model-00003-of-00003\.safetensors", but it is in "model-00001/,
    apply: (directory) =>
      editJson(path.join(directory, INDEX), (json) => {
        (json.weight_map as Config)[NORM] = 'model-00003-of-00003.safetensors';
      }),
  },
  {
    name: 'tensor in two shards',
    mentions: /is also in/,
    apply: async (directory) => {
      const names = (await readdir(directory)).filter((name) => name.endsWith('.safetensors')).sort();
      await copyFile(path.join(directory, names[0]!), path.join(directory, names[1]!));
    },
  },
  {
    name: 'index that leaves its folder',
    mentions: /index\.json.*"\.\.\/x\.safetensors".*not a shard in the same folder/,
    apply: (directory) =>
      editJson(path.join(directory, INDEX), (json) => {
        (json.weight_map as Config)[NORM] = '../x.safetensors';
      }),
  },
  {
    name: 'index without a weight map',
    mentions: /index\.json.*weight_map/,
    apply: (directory) => writeFile(path.join(directory, INDEX), '{"metadata":{}}'),
  },
  {
    name: 'index missing beside several shards',
    mentions: /3 safetensors files but no index/,
    apply: (directory) => rm(path.join(directory, INDEX)),
  },
  {
    name: 'no config',
    mentions: /config\.json: not found/,
    apply: (directory) => rm(path.join(directory, 'config.json')),
  },
  {
    name: 'config that is not JSON',
    mentions: /config\.json: not valid JSON/,
    apply: (directory) => editText(path.join(directory, 'config.json'), (text) => text.slice(0, 100)),
  },
  {
    name: 'field of the config named twice',
    mentions: /config\.json.*names something twice/,
    apply: (directory) =>
      editText(path.join(directory, 'config.json'), (text) => text.replace('{', '{"vocab_size": 7,')),
  },
  {
    name: 'tensor listed twice in the index',
    mentions: /index\.json.*names something twice/,
    apply: (directory) =>
      editText(path.join(directory, INDEX), (text) =>
        text.replace('"weight_map": {', `"weight_map": {"${NORM}": "x.safetensors",`),
      ),
  },
  config(
    'unknown architecture',
    'architectures',
    ['LlamaForCausalLM'],
    /config\.json.*"LlamaForCausalLM" is not supported/,
  ),
  config('no architecture', 'architectures', undefined, /config\.json.*architectures/),
  config('hidden size as text', 'hidden_size', '160', /config\.json: hidden_size: .*expected number/),
  config('hidden size that does not fit the tensors', 'hidden_size', 128, /embed_tokens.*expected shape \[203, 128\]/),
  config('heads that do not divide', 'num_attention_heads', 5, /config\.json.*5 query heads cannot share 2/),
  config('more experts per token than experts', 'num_experts_per_tok', 9, /config\.json.*num_experts_per_tok 9/),
  config(
    'layer pattern of the wrong length',
    'hybrid_layer_pattern',
    [0, 1],
    /config\.json.*hybrid_layer_pattern has 2/,
  ),
  config('expert groups', 'n_group', 2, /config\.json.*n_group is "2"/),
  config('chosen expert groups', 'topk_group', 2, /config\.json.*topk_group is "2"/),
  config('shared experts', 'n_shared_experts', 1, /config\.json.*n_shared_experts is "1"/),
  config('another scoring function', 'scoring_func', 'softmax', /config\.json.*scoring_func is "softmax"/),
  config('another activation', 'hidden_act', 'gelu', /config\.json.*hidden_act is "gelu"/),
  config('attention bias', 'attention_bias', true, /config\.json.*attention_bias is "true"/),
  config('position scaling', 'rope_scaling', { rope_type: 'yarn', factor: 4 }, /config\.json.*rope_scaling is "yarn"/),
  config('position scaling without a name', 'rope_scaling', { factor: 4 }, /config\.json.*rope_scaling is "unnamed"/),
  config('odd rotary size', 'partial_rotary_factor', 0.32, /config\.json.*rotates 15 dimensions/),
  config('no epsilon', 'layernorm_epsilon', undefined, /config\.json.*layernorm_epsilon is missing/),
  config('no window', 'sliding_window', undefined, /config\.json.*sliding_window is missing/),
  config(
    'layer pattern of other numbers',
    'hybrid_layer_pattern',
    [0, 1, 2, 0],
    /config\.json: hybrid_layer_pattern\.2: .*0\|1/,
  ),
  config('end token that is a word', 'eos_token_id', 'end', /config\.json: eos_token_id: expected a token id/),
  config('end token beyond the vocabulary', 'eos_token_id', 203, /config\.json.*eos_token_id 203/),
  config('fewer layers than stored', 'num_hidden_layers', 3, /hybrid_layer_pattern has 4 entries for 3/),
  quantization('another FP8 block', 'weight_block_size', [64, 64], /config\.json.*weight_block_size is "64x64"/),
  quantization('static activations', 'activation_scheme', 'static', /config\.json.*activation_scheme is "static"/),
  quantization('another quantisation', 'quant_method', 'awq', /config\.json.*quant_method is "awq"/),
  setByte('E4M3 NaN code', QKV, 0x7f, /qkv_proj\.weight holds a value that is not a number/),
  setByte('negative E4M3 NaN code', QKV, 0xff, /qkv_proj\.weight holds a value that is not a number/),
  setByte('E8M0 NaN code', EXPERT_SCALE, 0xff, /experts\.5\.up_proj\.weight holds a scale that is not a number/),
  {
    name: 'NaN scale',
    mentions: /qkv_proj\.weight holds a scale that is not finite/,
    inValues: true,
    apply: (directory) =>
      editHeader(directory, QKV_SCALE, (entry, _header, data) => {
        data.writeFloatLE(Number.NaN, entry.data_offsets[0] + 4);
      }),
  },
  {
    name: 'infinite norm weight',
    mentions: /model\.norm\.weight holds a value that is not finite/,
    inValues: true,
    apply: (directory) =>
      editHeader(directory, NORM, (entry, _header, data) => {
        data.writeUInt16LE(0x7f80, entry.data_offsets[0] + 4);
      }),
  },
  draftConfig('draft tap beyond the target', {}, { target_layer_ids: [0, 2, 4] }, /dflash\/config\.json.*layer 4/),
  draftConfig('draft of another width', { hidden_size: 128 }, {}, /dflash\/config\.json.*hidden_size 128/),
  draftConfig(
    'draft of another architecture',
    { architectures: ['EagleModel'] },
    {},
    /dflash\/config\.json.*"EagleModel"/,
  ),
  draftConfig(
    'draft mask beyond the vocabulary',
    {},
    { mask_token_id: 203 },
    /dflash\/config\.json.*mask_token_id 203/,
  ),
  draftConfig('draft block of one', { block_size: 1 }, { block_size: 1 }, /dflash\/config\.json.*block_size/),
  draftConfig('draft block sizes that disagree', { block_size: 4 }, {}, /dflash\/config\.json.*disagree/),
  draftConfig('draft mask of another id', {}, { mask_token_id: 7 }, /mask_embedding\.pt: mask_token_id 202/),
  {
    name: 'draft tensor of the wrong shape',
    mentions: /dflash: .*fc\.weight.*expected shape \[160, 480\], found \[480, 160\]/,
    apply: (directory) =>
      editHeader(path.join(directory, 'dflash'), 'fc.weight', (entry) => {
        entry.shape.reverse();
      }),
  },
  {
    name: 'draft without its sidecar',
    mentions: /dflash\/mask_embedding\.pt: not found/,
    apply: (directory) => rm(path.join(directory, 'dflash', 'mask_embedding.pt')),
  },
  sidecar(
    'sidecar that is not a ZIP',
    Buffer.from('not a zip at all, but long enough to look at'),
    /mask_embedding\.pt.*not a torch\.save file/,
  ),
  sidecar('empty sidecar', Buffer.alloc(0), /mask_embedding\.pt.*not a torch\.save file/),
  sidecar(
    'sidecar of another width',
    maskSidecarBytes(202, new Float64Array(128)),
    /mask_embedding\.pt.*expected shape \[160\], found \[128\]/,
  ),
  sidecar(
    'sidecar with a NaN',
    maskSidecarBytes(202, new Float64Array(160).fill(Number.NaN), 'F32'),
    /mask_embedding\.pt.*finite/,
  ),
  sidecar(
    'sidecar that calls a function',
    torchZip([['x/data.pkl', evilPickle]]),
    /mask_embedding\.pt.*names "os\.system"/,
  ),
  sidecar('sidecar without a pickle', torchZip([['x/data/0', Buffer.alloc(320)]]), /mask_embedding\.pt.*no data\.pkl/),
];
