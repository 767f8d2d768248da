"""Settings: the environment read once, and every wrong value named."""

import pytest

from handler.errors import StartError
from handler.settings import Settings, on_runpod, without_effect


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_environment({}) == Settings()


def test_values_are_read_by_the_field_names_in_capitals() -> None:
    environ = {"MODEL_PATH": "/models/x", "ALLOW_DOWNLOAD": "true", "KV_CACHE_GB": "1.5", "MAX_MODEL_LEN": "4096"}
    settings = Settings.from_environment(environ)
    assert (settings.model_path, settings.allow_download) == ("/models/x", True)
    assert (settings.kv_cache_gb, settings.max_model_len) == (1.5, 4096)


@pytest.mark.parametrize(("value", "buckets"), [("1,2,4", (1, 2, 4)), ("8", (8,)), ("off", ())])
def test_graph_buckets_are_separated_by_commas(value: str, buckets: tuple[int, ...]) -> None:
    assert Settings.from_environment({"GRAPH_BUCKETS": value}).graph_buckets == buckets


def test_a_rope_scaling_is_a_json_object() -> None:
    settings = Settings.from_environment({"ROPE_SCALING": '{"rope_type": "yarn", "factor": 4.0}'})
    assert settings.rope_scaling == {"rope_type": "yarn", "factor": 4.0}


def test_an_empty_variable_counts_as_unset_and_foreign_ones_are_left_alone() -> None:
    assert Settings.from_environment({"MAX_MODEL_LEN": "", "ALLOW_DOWNLOAD": "", "HOME": "/root"}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALLOW_DOWNLOAD", "perhaps"),
        ("MAX_CONCURRENT_REQUESTS", "0"),
        ("MAX_CONCURRENT_REQUESTS", "many"),
        ("MAX_MODEL_LEN", "-1"),
        ("KV_CACHE_GB", "nan"),
        ("KV_CACHE_GB", "0"),
        ("KV_CACHE_GB", "inf"),
        ("KV_CACHE_GB", "1e300"),
        ("STEP_TIMEOUT_S", "inf"),
        ("STEP_TIMEOUT_S", "1e10"),
        ("SHUTDOWN_GRACE_S", "-1"),
        ("PACKS_DIR", "/nowhere"),
        ("ENCODERS_DIR", "/nowhere"),
        ("PREFILL_CHUNK", "1.5"),
        ("ATTENTION", "flash"),
        ("PREFIX_SHARING", "none"),
        ("GRAPH_BUCKETS", "1;2"),
        ("GRAPH_BUCKETS", "1,0"),
        ("ROPE_SCALING", "yarn"),
        ("ROPE_SCALING", "4"),
        ("ROPE_SCALING", "null"),
    ],
)
def test_a_bad_value_stops_the_start_and_names_itself(name: str, value: str) -> None:
    with pytest.raises(StartError, match=f"{name}='{value}'"):
        Settings.from_environment({name: value})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MAX_CONCURENT_REQUESTS", "MAX_CONCURRENT_REQUESTS"),
        ("KV_CACHE_GIB", "KV_CACHE_GB"),
        ("MODEL_PATHS", "MODEL_PATH"),
        ("MAX_MODEL_LENGTH", "MAX_MODEL_LEN"),
        ("VERIFY_WEIGHT", "VERIFY_WEIGHTS"),
        ("max_model_len", "MAX_MODEL_LEN"),
    ],
)
def test_a_variable_that_is_nearly_one_of_ours_stops_the_start(name: str, meant: str) -> None:
    with pytest.raises(StartError, match=f"{name} is not a setting; did you mean {meant}"):
        Settings.from_environment({name: "1"})
    assert Settings.from_environment({name: ""}) == Settings()


OTHERS = """
    PATH HOME HOSTNAME LANG TERM USER PWD SHLVL LD_LIBRARY_PATH PYTHONPATH PYTHONUNBUFFERED OMP_NUM_THREADS
    CUDA_VISIBLE_DEVICES CUDA_VERSION CUDA_MODULE_LOADING NVIDIA_VISIBLE_DEVICES NVIDIA_REQUIRE_CUDA
    HF_HOME HF_TOKEN HF_HUB_OFFLINE HF_HUB_CACHE HF_DATASETS_CACHE TRANSFORMERS_CACHE TRITON_CACHE_DIR TORCH_HOME
    RUNPOD_WEBHOOK_GET_JOB RUNPOD_ENDPOINT_ID RUNPOD_POD_ID RUNPOD_LOG_LEVEL RUNPOD_DEBUG_LEVEL RUNPOD_INIT_TIMEOUT
    RUNPOD_GPU_COUNT RUNPOD_MEM_GB RUNPOD_PING_INTERVAL RUNPOD_AI_API_KEY
    MODEL_SOURCE MODEL_DIR MODEL_ID MODEL_REPO MODEL_VERSION ALLOW_UNPINNED MODELS_DIR CACHE_DIR MAX_CONCURRENCY
    MAX_NUM_SEQS GPU_MEMORY_UTILIZATION TENSOR_PARALLEL_SIZE ATTENTION_BACKEND STREAM ENCODERS PACKS
"""


def test_the_variables_of_others_are_left_alone() -> None:
    others = dict.fromkeys(OTHERS.split(), "1")
    assert Settings.from_environment(others) == Settings()


def test_settings_cannot_change_later() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().allow_download = True  # type: ignore[misc]


def test_runpod_is_recognised_by_the_url_from_which_jobs_are_taken() -> None:
    assert on_runpod({"RUNPOD_WEBHOOK_GET_JOB": "http://…"})
    assert not on_runpod({"RUNPOD_POD_ID": "x"})


def test_a_variable_that_was_a_setting_once_is_named_with_what_took_its_place() -> None:
    assert Settings.from_environment({"STREAMING": "true"}) == Settings()
    (sentence,) = without_effect({"STREAMING": "false", "HOME": "/root"})
    assert sentence.startswith("STREAMING has no effect: each job is streamed where its own field `stream` is true")
    assert without_effect({"STREAMING": ""}) == []
