"""Checks a proof file with hashlib alone: RFC 9162, 2.1.3.2 and 2.1.4.2, line by line.

usage: python3 proof.py FILE; prints "holds" or fails. The notes' signatures are not checked here.
"""

import base64
import hashlib
import json
import sys


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def head(note):
    _, size, root = note.split("\n\n")[0].split("\n")[:3]
    return int(size), base64.b64decode(root)


def inclusion(index, size, leaf, path, root):
    assert index < size
    fn, sn = index, size - 1
    r = hashlib.sha256(b"\x00" + leaf).digest()
    for p in path:
        assert sn != 0
        if fn & 1 or fn == sn:
            r = node(p, r)
            while not fn & 1 and fn != 0:
                fn >>= 1
                sn >>= 1
        else:
            r = node(r, p)
        fn >>= 1
        sn >>= 1
    assert sn == 0 and r == root


def consistency(first, first_root, second, second_root, path):
    assert 0 < first < second
    if first & (first - 1) == 0:
        path = [first_root] + path
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    fr = sr = path[0]
    for c in path[1:]:
        assert sn != 0
        if fn & 1 or fn == sn:
            fr, sr = node(c, fr), node(c, sr)
            while not fn & 1 and fn != 0:
                fn >>= 1
                sn >>= 1
        else:
            sr = node(sr, c)
        fn >>= 1
        sn >>= 1
    assert sn == 0 and fr == first_root and sr == second_root


with open(sys.argv[1], encoding="utf-8") as file:
    proof = json.load(file)
assert proof["v"] == 1
if proof["kind"] == "inclusion":
    size, root = head(proof["checkpoint"])
    assert proof["entries"]
    for entry in proof["entries"]:
        leaf = json.loads(entry["leaf"])
        assert leaf["serial"] == proof["serial"] and leaf["index"] == entry["index"]
        path = [bytes.fromhex(text) for text in entry["proof"]]
        inclusion(entry["index"], size, entry["leaf"].encode(), path, root)
else:
    path = [bytes.fromhex(text) for text in proof["proof"]]
    consistency(*head(proof["older"]), *head(proof["newer"]), path)
print("holds")
