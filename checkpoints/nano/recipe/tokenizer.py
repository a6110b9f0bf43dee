"""Trains the byte-level BPE tokenizer (1,024 ids, eight added tokens at the end) and writes the tokenizer files of the checkpoint."""
import json
import os

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from chat import SPECIALS, TEMPLATE, render

VOCAB = 1024
SPLIT = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def train(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB - len(SPECIALS), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == VOCAB - len(SPECIALS), tokenizer.get_vocab_size()
    hidden = {"<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|mask|>"}
    for s in SPECIALS:  # one by one keeps the order, and so the ids
        token = AddedToken(s, special=s in hidden, normalized=False)
        (tokenizer.add_special_tokens if s in hidden else tokenizer.add_tokens)([token])
    assert [tokenizer.token_to_id(s) for s in SPECIALS] == list(range(VOCAB - len(SPECIALS), VOCAB))
    return tokenizer


def write(tokenizer, folder):
    os.makedirs(folder, exist_ok=True)
    tokenizer.save(f"{folder}/tokenizer.json")
    with open(f"{folder}/chat_template.jinja", "w") as f:
        f.write(TEMPLATE)
    with open(f"{folder}/tokenizer_config.json", "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "model_max_length": 2048,
                   "add_bos_token": False, "clean_up_tokenization_spaces": False, "chat_template": TEMPLATE}, f, indent=2)
    with open(f"{folder}/generation_config.json", "w") as f:
        json.dump({"eos_token_id": [1017], "pad_token_id": 1016, "do_sample": True, "temperature": 1.0, "top_p": 0.95}, f, indent=2)


def check_template(folder, rows):
    """The plain rendering and the shipped template agree, as transformers renders it."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", chat_template=TEMPLATE)
    for row in rows:
        ours = "".join(t for t, _ in render(row["messages"], row.get("tools"), True))
        theirs = fast.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False, add_generation_prompt=True)
        assert ours == theirs, (ours, theirs)


def encode(tokenizer, rows):
    """rows -> [(ids, output_flags)], documents end with the newline after <|im_end|>."""
    spans = [render(r["messages"], r.get("tools")) for r in rows]
    flat = [t for pieces in spans for t, _ in pieces]
    encoded = iter(tokenizer.encode_batch(flat, add_special_tokens=False))
    out = []
    for pieces in spans:
        ids, flags = [], []
        for _, is_output in pieces:
            piece = next(encoded).ids
            ids += piece
            flags += [is_output] * len(piece)
        out.append((ids, flags))
    return out
