//! Writes down what the binary is made of, for `build_info!` in `main.rs`.

fn main() {
    molecule_build::embed();
}
