//! Writes down what the binary is made of, for `build-info` and `/admin/build-info`.
fn main() {
    molecule_build::embed();
}
