import pytest


@pytest.fixture(autouse=True)
def caches_of_remote_stores_go_with_the_test(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TAMIS_CACHE", str(tmp_path_factory.mktemp("cache")))
