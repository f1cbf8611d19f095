//! End-to-end tests of Molecule: real sockets, real databases, real containers.
