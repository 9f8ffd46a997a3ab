"""Downloads of benchmarks' files: what is broken off goes on, and archives are unpacked safely."""
