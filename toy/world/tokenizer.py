"""The world's tokenizer: one token per number, labelled operation and word, single bytes for everything else.

A pre-tokenizer cuts the text into candidate words; one that is in the vocabulary becomes a token, any other becomes
its bytes. So every text can be encoded, and decoding gives back exactly that text.
"""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .task import LABELS, MAX_MODULUS, OPERATIONS, words

EOS, PAD = "<|eos|>", "<|pad|>"

# Labelled operations first, or they would be cut at the operator. Each world word carries the space before it.
_CANDIDATE = r" ?[a-h][-+*][1-9](?![0-9])| ?[0-9]+| ?\\boxed\{| ?[A-Za-z]+|\n\n| ?[^\sA-Za-z0-9]"


def world_tokens() -> list[str]:
    """The tokens that are more than a byte, as text."""
    numbers = [f" {x}" for x in range(MAX_MODULUS)]
    operations = [f" {label}{op}" for label in LABELS for op in OPERATIONS]
    return [*numbers, *operations, *(f" {word}" for word in words()), "\n\n"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, with EOS and padding but no BOS; `save_pretrained` leaves what AutoTokenizer loads."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for token in ["Q", "F", *world_tokens()]:
        written = "".join(piece for piece, _ in byte_level.pre_tokenize_str(token))  # " so" is "Ġso" in byte-level BPE
        vocabulary.setdefault(written, len(vocabulary))
    # BPE without merges: with ignore_merges a candidate that is in the vocabulary is taken whole.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_CANDIDATE), behavior="isolated"), byte_level]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (EOS, PAD)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        padding_side="left",
    )
