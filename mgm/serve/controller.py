"""Controller: registers workers and balances requests among them.

python -m mgm.serve.controller --host 0.0.0.0 --port 10000
"""

from functools import partial

from mgm.errors import run_command
from mgm.serve.common.run_program import run_program

if __name__ == "__main__":
    run_command(partial(run_program, "mgm.serve.router.main"))
