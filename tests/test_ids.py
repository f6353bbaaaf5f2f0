"""No module but tokens/vocab.py writes out a token id, a block offset or the vocabulary size.

The syntax tree is searched, so prose and comments are free, for
1. numbers that are specific to the vocabulary: its size, the ends of its blocks, middle C in NOTE_OFF;
2. ids compared with a number (`ids == 2`, `token >= 4`);
3. a number given as `pad_id=`, `ignore_index=`, `vocab_size=` and the like.
A number that is not an id is marked at the end of its line: `# not an id`."""
import ast, re

import pytest
from aurl.tokens.vocab import Kind, vocab
from common import modules, root

ends = {i for kind in Kind for i in (vocab.blocks[kind].start, vocab.blocks[kind].stop - 1) if i > 40}
# its NOTE_ON is a number that drums and pitches have too
middle_c = vocab.blocks[Kind.NOTE_OFF].start + 60 - vocab.pitch_lo
telltale = ends | {middle_c, len(vocab)}
holds_ids = re.compile(r'^(?!n_|num_|max_|min_)(\w*_)?(ids?|tok|toks|token|tokens)$')
takes_id = re.compile(
    r'^((pad|start|end|unk|bos|eos|mask)(_token)?(_id|_idx)?|padding_idx|padding_value|ignore_index|n?_?vocab(_size)?|n_tokens|num_embeddings)$'
)


def number(node):
    "The integer that `node` writes out, or None."
    if isinstance(node, ast.Constant) and type(node.value) is int: return node.value
    return None


def name_of(node):
    "The name at the root of `a`, `x.a` or `a[...]`."
    if isinstance(node, ast.Subscript): return name_of(node.value)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, 'id', '')


def stray(source):
    "(line, number, why) for each number in `source` that should come from the vocabulary."
    lines, found = source.splitlines(), set()
    for node in ast.walk(ast.parse(source)):
        if number(node) in telltale: found.add((node.lineno, number(node), 'is an id or a size of the vocabulary'))
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(holds_ids.match(name_of(s)) for s in sides):
                bounds = all(isinstance(o, (ast.Lt, ast.GtE)) for o in node.ops)  # ids < 0 is a question about the type
                found |= {
                    (s.lineno, number(s), 'is compared with ids')
                    for s in sides
                    if number(s) is not None and not (bounds and number(s) == 0)
                }
        if isinstance(node, ast.keyword) and node.arg and takes_id.match(node.arg) and (number(node.value) or 0) > 0:
            found.add((node.value.lineno, number(node.value), f'is given as {node.arg}='))
    return sorted(f for f in found if '# not an id' not in lines[f[0]-1])


@pytest.mark.parametrize('name', [n for n in modules() if n != 'tokens/vocab.py'])
def test_no_stray_ids(name):
    "The module contains no number that should come from the vocabulary."
    path = root / 'aurl' / name
    found = stray(path.read_text(encoding='utf-8'))
    assert not found, '\n'.join(
        f'aurl/{name}, line {l}: {n} {why}; ask vocab, or end the line with `# not an id`' for l, n, why in found
    )


@pytest.mark.parametrize('line', ['x = torch.zeros(774)', 'mask[180:692] = True', 'pitch = i - 92', 'kind = torch.where(ids >= 4, 1, 0)', 'done = ids[:, -1] == 1',
    'if token == 2: pass', 'self.ids != 0', 'F.cross_entropy(a, b, ignore_index=2)', 'nn.Embedding(9, 8, padding_idx=2)', 'middle_c = 131', 'v = 757', 'f(vocab_size=800)'])
def test_a_stray_id_is_seen(line):
    "A written-out id is found."
    assert stray(line)


@pytest.mark.parametrize('line', ['x = 512', 'rate = 22050', 'if ids.ndim == 2: pass', 'if len(ids) > 4: pass', 'if ids.shape[1] == 3: pass', 'n = max_tokens > 2', 'if ids.min() < 0: pass',
    'ids[0] == vocab.start', 'x = ids[2]', 'F.cross_entropy(a, b, ignore_index=-100)', '"774 events"', 'x = 180  # not an id', 'x = 92.0', 'bad = ids < 0', 'width = 256'])
def test_ordinary_numbers_pass(line):
    "Numbers that are not ids are accepted."
    assert not stray(line)
