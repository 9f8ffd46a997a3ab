"""Gradio page: chat with models about images, and see the attribution of answers.

python -m mgm.serve.gradio_web_server --controller http://localhost:10000
"""

from functools import partial

from mgm.errors import run_command
from mgm.serve.common.run_program import run_program

if __name__ == "__main__":
    run_command(partial(run_program, "mgm.serve.web.main", extra="web"))
