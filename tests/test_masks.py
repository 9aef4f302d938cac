"""Masks from every file format, and what is refused."""

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from safetensors.numpy import save_file

from sparsefact.errors import DtypeError, FormatError, StorageError
from sparsefact.io.masks import read_mask

MASK = np.random.default_rng(0).random((5, 7)) < 0.4


def _dense(mask):
    return mask.toarray() != 0 if scipy.sparse.issparse(mask) else mask


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_formats(tmp_path, dtype):
    array = MASK.astype(dtype)
    np.save(tmp_path / "m.npy", array)
    scipy.sparse.save_npz(tmp_path / "m.npz", scipy.sparse.csr_array(array))
    scipy.io.mmwrite(tmp_path / "m.mtx", scipy.sparse.coo_array(array.astype(float)))
    save_file({"left": array, "other": np.ones(3)}, tmp_path / "m.safetensors")
    for name in ("m.npy", "m.npz", "m.mtx", "m.safetensors", "m.safetensors:left"):
        assert np.array_equal(_dense(read_mask(tmp_path / name)), MASK), name


def test_bad_files_get_a_sentence(tmp_path):
    np.save(tmp_path / "float.npy", np.full((2, 2), 0.5))
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "noise.npz").write_bytes(b"noise")
    (tmp_path / "noise.mtx").write_bytes(b"noise")
    save_file({"a": MASK, "b": MASK}, tmp_path / "two.safetensors")
    for name, error, words in [
        ("float.npy", DtypeError, "save the mask as booleans"),
        ("pickle.npy", FormatError, "not a readable .npy file"),
        ("noise.npz", FormatError, "not a readable .npz file"),
        ("noise.mtx", FormatError, "not a readable .mtx file"),
        ("missing.npy", StorageError, "check the path"),
        ("mask.txt", FormatError, "suffix '.txt'"),
        ("two.safetensors", FormatError, "choose one"),
        ("two.safetensors:c", FormatError, "no tensor 'c'"),
    ]:
        with pytest.raises(error, match=words):
            read_mask(tmp_path / name)
