"""The tree is Certificate Transparency's, and its proofs prove nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.audit.merkle import (
    EMPTY_ROOT,
    Tree,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)
from privacy.errors import TamperError

# Test vectors of Certificate Transparency's reference implementation for RFC 6962.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
    (6, 7): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}


def grow(entries: list[bytes]) -> Tree:
    """A tree over `entries`."""
    tree = Tree()
    for entry in entries:
        tree.append(leaf_hash(entry))
    return tree


def plain_root(entries: list[bytes]) -> bytes:
    """The root by the definition in RFC 9162, section 2.1.1, with nothing kept."""
    if not entries:
        return EMPTY_ROOT
    if len(entries) == 1:
        return leaf_hash(entries[0])
    middle = 1
    while middle * 2 < len(entries):
        middle *= 2
    return node_hash(plain_root(entries[:middle]), plain_root(entries[middle:]))


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    assert (
        Tree().root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


@pytest.mark.parametrize("size", range(1, 9))
def test_published_roots(size: int) -> None:
    assert grow(LEAVES[:size]).root().hex() == ROOTS[size - 1]
    assert grow(LEAVES).root(size).hex() == ROOTS[size - 1]


@pytest.mark.parametrize(("place", "path"), INCLUSION.items())
def test_published_inclusion_proofs(place: tuple[int, int], path: list[str]) -> None:
    index, size = place
    assert [part.hex() for part in grow(LEAVES).inclusion(index, size)] == path
    verify_inclusion(
        leaf_hash(LEAVES[index]),
        index=index,
        size=size,
        path=[bytes.fromhex(part) for part in path],
        root=bytes.fromhex(ROOTS[size - 1]),
    )


@pytest.mark.parametrize(("sizes", "path"), CONSISTENCY.items())
def test_published_consistency_proofs(sizes: tuple[int, int], path: list[str]) -> None:
    old_size, new_size = sizes
    assert [part.hex() for part in grow(LEAVES).consistency(old_size, new_size)] == path
    verify_consistency(
        old_size=old_size,
        old_root=bytes.fromhex(ROOTS[old_size - 1]),
        new_size=new_size,
        new_root=bytes.fromhex(ROOTS[new_size - 1]),
        path=[bytes.fromhex(part) for part in path],
    )


@given(st.lists(st.binary(max_size=4), max_size=70))
def test_the_root_is_that_of_the_definition(entries: list[bytes]) -> None:
    tree = grow(entries)
    assert tree.root() == plain_root(entries)
    assert all(tree.root(size) == plain_root(entries[:size]) for size in range(len(entries)))


@given(st.data(), st.integers(1, 70))
def test_every_entry_proves_its_place_and_no_other(data: st.DataObject, size: int) -> None:
    entries = [str(i).encode() for i in range(size)]
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1))
    tree = grow(entries)
    path = tree.inclusion(index, size)
    verify_inclusion(
        leaf_hash(entries[index]), index=index, size=size, path=path, root=tree.root()
    )
    if other != index:
        with pytest.raises(TamperError):
            verify_inclusion(
                leaf_hash(entries[index]), index=other, size=size, path=path, root=tree.root()
            )
        with pytest.raises(TamperError):
            verify_inclusion(
                leaf_hash(entries[other]), index=index, size=size, path=path, root=tree.root()
            )


@given(st.data(), st.integers(1, 70))
def test_a_tree_proves_that_it_only_grew(data: st.DataObject, new_size: int) -> None:
    entries = [str(i).encode() for i in range(new_size)]
    old_size = data.draw(st.integers(1, new_size))
    changed = data.draw(st.integers(0, old_size - 1))
    tree = grow(entries)
    path = tree.consistency(old_size, new_size)
    old_root = tree.root(old_size)
    verify_consistency(
        old_size=old_size,
        old_root=old_root,
        new_size=new_size,
        new_root=tree.root(),
        path=path,
    )
    entries[changed] = b"rewritten"
    rewritten = grow(entries)
    with pytest.raises(TamperError):
        verify_consistency(
            old_size=old_size,
            old_root=old_root,
            new_size=new_size,
            new_root=rewritten.root(),
            path=rewritten.consistency(old_size, new_size),
        )


@given(st.data(), st.integers(2, 40))
def test_a_bent_proof_is_refused(data: st.DataObject, size: int) -> None:
    entries = [str(i).encode() for i in range(size)]
    index = data.draw(st.integers(0, size - 1))
    tree = grow(entries)
    path = tree.inclusion(index, size)
    bent = data.draw(
        st.sampled_from(
            [
                path[:-1],
                [*path, tree.root()],
                [tree.root(), *path],
                [*path[:-1], bytes(32)],
                [*path[:-1], b""],
            ]
        )
    )
    with pytest.raises(TamperError):
        verify_inclusion(
            leaf_hash(entries[index]), index=index, size=size, path=bent, root=tree.root()
        )


def test_an_older_tree_cannot_be_longer() -> None:
    tree = grow(LEAVES)
    with pytest.raises(TamperError):
        verify_consistency(
            old_size=8, old_root=tree.root(), new_size=6, new_root=tree.root(6), path=[]
        )


def test_a_proof_for_a_size_that_never_was_is_not_given() -> None:
    tree = grow(LEAVES)
    with pytest.raises(ValueError, match="expected 0 <= size <= 8"):
        tree.root(9)
    with pytest.raises(ValueError, match="expected 0 <= index < 8"):
        tree.inclusion(8, 8)
    with pytest.raises(ValueError, match="expected 0 < old_size <= 8"):
        tree.consistency(0, 8)
