//! The shortest EnvMutator.
