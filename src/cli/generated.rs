//! What is made of the command line's own description: completions for shells, and man pages.

use std::io;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;

/// The name of the binary.
const NAME: &str = "outboxd";

/// What a man page says of where it comes from.
const VERSION: &str = concat!("outboxd ", env!("CARGO_PKG_VERSION"));

/// What a shell has to read to complete commands and flags.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    script
}

/// The man page of a command, named word by word, in roff; of the whole where none is named.
///
/// # Errors
/// When there is no such command.
pub fn man(words: &[String]) -> io::Result<Vec<u8>> {
    let mut whole = Cli::command();
    // Only now do the parts know what they are part of.
    whole.build();
    let (mut command, mut name) = (&whole, NAME.to_owned());
    for word in words {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("there is no command {word:?} of {name}"));
        command = command.find_subcommand(word).ok_or_else(missing)?;
        name = format!("{name}-{word}");
    }
    let command: Command = command.clone().disable_help_subcommand(true);
    let mut page = Vec::new();
    Man::new(command).title(name).source(VERSION).render(&mut page)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(words: &[&str]) -> io::Result<String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        man(&words).map(|page| String::from_utf8(page).expect("text"))
    }

    #[test]
    fn every_command_has_a_page_under_its_name() {
        assert!(page(&[]).expect("the whole").contains(".TH outboxd 1"));
        for command in Cli::command().get_subcommands() {
            let title = format!(".TH outboxd-{} 1", command.get_name());
            let page = page(&[command.get_name()]).expect("it is a command");
            assert!(page.contains(&title), "{page}");
        }
        assert!(page(&["held", "release"]).expect("it is one").contains(".TH outboxd-held-release 1"));
        let error = page(&["held", "fly"]).expect_err("there is none");
        assert_eq!(error.to_string(), "there is no command \"fly\" of outboxd-held");
    }
}
