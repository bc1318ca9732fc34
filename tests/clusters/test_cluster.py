from __future__ import annotations

from pathlib import Path

import pytest

from catalog.errors import BadInput, UsageError
from clusters.cluster import SHIPPED, Cluster, job_environment, load

ROOT = Path(__file__).parents[2]


def write(tmp_path, text):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return path


def test_the_file_that_comes_with_tamis_and_an_empty_one_name_the_cluster_of_this_machine(tmp_path):
    assert load(ROOT / "clusters" / "local.yaml") == load(write(tmp_path, "")) == Cluster()
    assert Cluster().host_and_port == ("127.0.0.1", 8265)


def test_every_key_is_read(tmp_path):
    text = """
address: https://ray.example.org/dash
env: {TAMIS_STORE: s3://bucket/store, HF_HOME: /cache}
code: shipped
python: /opt/venv/bin/python
num_cpus: 1
runtime_env: {pip: [polars]}
"""
    assert load(write(tmp_path, text)) == Cluster(
        address="https://ray.example.org/dash",
        env={"TAMIS_STORE": "s3://bucket/store", "HF_HOME": "/cache"},
        code="shipped",
        python="/opt/venv/bin/python",
        num_cpus=1.0,
        runtime_env={"pip": ["polars"]},
    )
    assert load(write(tmp_path, text)).host_and_port == ("ray.example.org", 443)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adress: http://x:1", r"no key 'adress'; its keys: address, env, code, python, num_cpus, runtime_env"),
        ("{a: 1, b: 2}", r"no key 'a', 'b'"),
        ("code: copied", r"code: Input should be 'installed' or 'shipped' \(given 'copied'\)"),
        ("num_cpus: many", r"num_cpus: .*\(given 'many'\)"),
        ("num_cpus: -1", r"num_cpus -1.0: expected 0 or more"),
        ("env: {A: [1]}", r"env.A: .*string"),
        ("address: 127.0.0.1:6379", r"'127.0.0.1:6379' is not a Ray dashboard: expected http://HOST:8265"),
        ("address: ray://host:10001", r"is not a Ray dashboard"),
        ("address: http://", r"is not a Ray dashboard"),
        ("address: http://host:99999", r"is not a Ray dashboard"),
        ("env: {TAMIS_STORE: ./store}", r"TAMIS_STORE './store': expected an absolute path or a URL"),
        ("runtime_env: {env_vars: {A: b}}", r"env_vars is written as `env`"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_was_expected(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        load(write(tmp_path, text))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["[1]", "text", "a: [", "a: 1\n---\nb: 2", "\tx"])
def test_a_file_that_is_not_keys_and_values_is_refused_in_one_line(tmp_path, text):
    with pytest.raises(BadInput, match=r"cluster\.yaml") as caught:
        load(write(tmp_path, text))
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"nothing\.yaml can't be read: No such file"):
        load(tmp_path / "nothing.yaml")


def test_installed_code_ships_nothing_and_its_log_is_not_buffered():
    assert job_environment(Cluster(env={"A": "b"})) == {"env_vars": {"PYTHONUNBUFFERED": "1", "A": "b"}}


def test_shipped_code_is_the_four_folders_and_not_the_one_they_lie_in():
    cluster = Cluster(code="shipped", runtime_env={"py_modules": ["/mine"], "pip": ["polars"]})
    environment = job_environment(cluster)
    assert environment["py_modules"] == ["/mine", *(str(ROOT / name) for name in SHIPPED)]
    assert all(Path(each, "__init__.py").is_file() for each in environment["py_modules"][1:])
    assert environment["pip"] == ["polars"]
    assert "working_dir" not in environment
    assert cluster.runtime_env == {"py_modules": ["/mine"], "pip": ["polars"]}
