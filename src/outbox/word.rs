//! Settings that are one of a few words.

/// Text that is none of a setting's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is {}: use {}", .setting.is_not, listed(.setting.words))]
pub struct UnknownWord {
    text: String,
    setting: &'static WordSetting,
}

/// What is said of a setting to those who gave it another word.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WordSetting {
    /// What the text is not, such as "no way to settle".
    pub(crate) is_not: &'static str,
    /// The words that would do.
    pub(crate) words: &'static [&'static str],
}

impl UnknownWord {
    /// This text is none of the setting's words.
    pub(crate) fn new(text: &str, setting: &'static WordSetting) -> Self {
        Self { text: text.to_owned(), setting }
    }
}

fn listed(words: &[&str]) -> String {
    match words {
        [words @ .., last] if !words.is_empty() => format!("{} or {last}", words.join(", ")),
        _ => words.concat(),
    }
}

/// Declares an enum of which each variant has a word, in the configuration, in tables or in logs; and what text is that is
/// none of them.
macro_rules! words {
    (
        $(#[$about:meta])*
        pub enum $name:ident else $is_not:literal {
            $($(#[$about_variant:meta])* $variant:ident = $word:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$about_variant])* $variant,)+
        }

        impl $name {
            const SETTING: $crate::outbox::word::WordSetting =
                $crate::outbox::word::WordSetting { is_not: $is_not, words: &[$($word),+] };

            /// All there are.
            pub const ALL: [Self; Self::SETTING.words.len()] = [$(Self::$variant),+];

            /// The word for it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::outbox::word::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let found = Self::ALL.into_iter().find(|value| value.as_str() == text);
                found.ok_or_else(|| $crate::outbox::word::UnknownWord::new(text, &Self::SETTING))
            }
        }
    };
}
pub(crate) use words;

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};
    use std::str::FromStr;

    use super::UnknownWord;
    use crate::outbox::delivery::Delivery;
    use crate::outbox::held::HoldCause;
    use crate::outbox::notify::{Notify, PreparedTransactions};
    use crate::outbox::reject::OnReject;
    use crate::outbox::settlement::Settle;

    /// Writes each value, and reads it back.
    fn round_trip<T: Copy + PartialEq + Debug + Display + FromStr<Err = UnknownWord>>(all: &[T]) {
        for value in all {
            assert_eq!(value.to_string().parse(), Ok(*value));
        }
    }

    #[test]
    fn every_value_is_read_back_from_its_word() {
        round_trip(&Settle::ALL);
        round_trip(&Delivery::ALL);
        round_trip(&OnReject::ALL);
        round_trip(&Notify::ALL);
        round_trip(&HoldCause::ALL);
        round_trip(&PreparedTransactions::ALL);
    }

    #[test]
    fn another_word_is_answered_with_those_that_would_do() {
        let error = "keep".parse::<Settle>().expect_err("no way to settle").to_string();
        assert_eq!(error, "\"keep\" is no way to settle: use mark, delete or checkpoint");
        let error = "maybe".parse::<PreparedTransactions>().expect_err("no answer").to_string();
        assert!(error.ends_with(": use possible or never"), "{error}");
    }
}
