//! The Molecule server as a library: compile it with the hooks you chose.
