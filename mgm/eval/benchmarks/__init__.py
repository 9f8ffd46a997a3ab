"""The benchmarks, one file each; `mgm.eval.registry` lists them."""
