//! The token host: `hallmark-token NAME --config FILE`. Its code is `hallmark::hsm::host`.

fn main() -> std::process::ExitCode {
    hallmark::hsm::host::main()
}
