//! The `hallmark` program: the daemon and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    hallmark::cli::main()
}
