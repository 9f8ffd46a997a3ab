from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image

from mgm.engine.inputs.encoder_cache import EncoderCache, image_key


def test_least_recently_used_is_evicted():
    cache = EncoderCache(capacity=100)
    features = torch.zeros(10, dtype=torch.float32)  # 40 bytes
    cache.put(b"a", features)
    cache.put(b"b", features)
    assert cache.get(b"a") is features
    cache.put(b"c", features)
    assert cache.get(b"b") is None
    assert cache.get(b"a") is features
    assert (len(cache), cache.nbytes) == (2, 80)


def test_too_large_entries_are_not_cached():
    cache = EncoderCache(capacity=100)
    cache.put(b"a", torch.zeros(10))
    cache.put(b"b", torch.zeros(1000))
    assert cache.get(b"b") is None
    assert cache.nbytes == 40


def test_same_key_counts_once():
    cache = EncoderCache(capacity=100)
    for _ in range(5):
        cache.put(b"a", torch.zeros(10))
    assert (len(cache), cache.nbytes) == (1, 40)


def test_keys_differ_by_image():
    images = [
        Image.new("RGB", (4, 2), "red"),
        Image.new("RGB", (2, 4), "red"),
        Image.new("RGB", (4, 2), "blue"),
    ]
    assert len({image_key(image) for image in images}) == 3
    assert image_key(images[0]) == image_key(images[0].copy())
    assert image_key(images[0], "a grid of 2") != image_key(images[0], "a grid of 1")


def test_capacity_holds_with_threads():
    cache = EncoderCache(capacity=400)

    def ask(thread):
        for step in range(500):
            name = (thread + step) % 25
            features = cache.get(b"%d" % name)
            if features is None:
                cache.put(b"%d" % name, torch.full((10,), float(name)))
            else:
                assert features[0] == name
            assert cache.nbytes <= 440  # one more while another thread inserts

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert (len(cache), cache.nbytes) == (10, 400)
    assert cache.hits + cache.misses == 8 * 500
