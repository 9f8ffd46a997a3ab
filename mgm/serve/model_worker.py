"""Model worker: serves a model with the OpenAI API and the published worker's endpoints.

python -m mgm.serve.model_worker --model-path playground/mgm-nano --port 40000
"""

from functools import partial

from mgm.errors import run_command
from mgm.serve.common.run_program import run_program

if __name__ == "__main__":
    run_command(partial(run_program, "mgm.serve.worker.main"))
