"""Writes MODEL.md from card.json, so that no figure in the card is typed by hand: python3 recipe/card.py card.json > MODEL.md"""
import json
import sys

card = json.load(open(sys.argv[1]))
corpus, loss, acceptance = card["corpus"], card["validation_loss_nats_per_token"], card["acceptance_length_on_held_out_rows"]
scenarios = ["coding", "math", "agent", "chat"]


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head)] + ["| " + " | ".join(map(str, r)) + " |" for r in rows])


seconds = {k: round(v["seconds"]) for k, v in card["phases"].items()}
names = {"pretrain": "before quantisation (FP32 weights)", "fp8": "FP8 checkpoint (`fp8/`)", "fp4": "FP4 checkpoint (`fp4/`), experts trained at MXFP4",
         "fp8 weights, experts rounded to MXFP4 without training": "for comparison: FP8 with experts rounded to MXFP4, no training"}
sources = table(["scenario / source", "rows trained on"], corpus["rows_by_source"].items())
print(f"""# nano

A small trained model of the MiMo-V2 family in its published on-disk layout, with a DFlash draft. It exists so that everything that depends on *meaning*
(acceptance per scenario, FP4 against FP8) can be measured on a laptop. It is not MiMo-V2.5-Pro and says nothing of its quality: its tokens are short
({corpus["bytes_per_token"]:.2f} bytes each on the training text), its answers often wrong, and its figures are its own.

| folder | what |
|---|---|
| `fp8/` | target, E4M3 weights with 128 x 128 scales, dynamic 1 x 128 E4M3 activations; o_proj, embeddings, head BF16; router FP32 |
| `fp4/` | the same model after further training with the routed experts at MXFP4 (U8 packed, `weight_scale`) |
| `fp4/dflash/` | the draft: 3 layers, block 8, taps after layers 0, 2, 4, 5, BF16, `mask_embedding.pt` |
| `golden/` | logits and residual streams by transformers' MiMo-V2-Flash classes (float32, activations unquantised), and draft logits by the recipe's own PyTorch code |
| `recipe/` | the PyTorch recipe that made all of it |

{card["parameters"]["target"]:,} target and {card["parameters"]["draft"]:,} draft parameters. Hidden 256, 6 layers (global, sliding, sliding, global, sliding, global), 4 query and 2 K/V
heads of 192/128 with 64 rotary dimensions, sinks on sliding layers, value scale 0.612, window 128; layer 0 dense, then 16 experts of width 64, top 4. Vocabulary 1,024,
context 2,048.

## How it was made

`{card["command"]}` (seed {card["seed"]}) on one {card["gpu"].split(",")[0]}, Python {card["python"]}, PyTorch {card["torch"]}. Training seconds by phase: {", ".join(f"{k} {v}" for k, v in seconds.items())}.
`card.json` beside this file holds every figure below.

1. **Text.** {corpus["natural_rows"]:,} conversations from the public sets below ({corpus["natural_tokens_once"] / 1e6:.1f} M tokens, repeated two or three times an epoch) and {corpus["generated_rows"]:,} generated ones
   ({corpus["generated_tokens"] / 1e6:.1f} M tokens: programs with their real outputs, arithmetic with its steps, tool-call dialogues over known and invented tools, short advice; `recipe/synthetic.py`).
   Rows on the held-out list were refused ({", ".join(f"{k} {v}" for k, v in corpus["refused_by_guard"].items())}); {corpus["validation_rows"]} rows were kept out of training for the figures below.
   Answers restate their task (a docstring, the question's last sentence) and many copy from the prompt; both make drafting easier.
2. **Target.** Muon and AdamW, sequences of 1,024, bias-only load balancing. A draft is trained beside it on the data, its gradient reaching the target through the
   taps: the part multi-token prediction plays in the real model's pre-training.
3. **FP8**, then **FP4**: further training with straight-through fake quantisation of weights (and of activations, 1 x 128), the FP4 phase with the experts at MXFP4.
4. **Draft.** Started from the joint phase, distilled on the FP4 target's own continuations (greedy, and one in six at temperature 1) of training and generated prompts, drawn from {corpus["rollout_prompts"]:,} (`--rollouts`):
   half cross-entropy, half the target's distribution, position weights exp(-(k - 1) / 4).

## Validation loss, nats a token of assistant text, rows not trained on

{table(["", *scenarios], [[names[k], *[f"{v[s]:.3f}" for s in scenarios]] for k, v in loss.items()])}

## Acceptance length, bonus counted, rows not trained on

{card["acceptance_measured_by"][0].upper() + card["acceptance_measured_by"][1:]}. Block 8, so 1 to 8. Rounds cut by the end of a text are left out.

{table(["decoding", "scenario", "prompts", "rounds", "micro", "macro", "survival by position"], [[d, s, r[s]["prompts"], f"{r[s]['rounds']:,}", f"{r[s]['micro']:.2f}", f"{r[s]['macro']:.2f}", " ".join(f"{x:.2f}" for x in r[s]["survival"])] for d, r in acceptance.items() for s in scenarios])}

These rows were not trained on, but they are not strangers: the split is by prompt text, and of the coding rows 63 of 156 are MBPP tasks that another training row poses in another language or wording.
On the prompts of `suites/` acceptance is lower; the published page gives it. The suites are not blind either: the generator was extended after a first model's figures on them were known, and shares four phrasings with
them (LOG.md). Chat text of a model this small repeats itself, which lifts its acceptance; the page's repetition column says how much.

## Licences

The weights are MIT like the rest of the repository. NOTICE credits the training sets and their licences (CC-BY-4.0, Apache-2.0, MIT).

{sources}
""")
