//! What a command says when it cannot do what was asked, and the exit code it ends with.

use std::error::Error;
use std::fmt;
use std::io::ErrorKind;
use std::process::ExitCode;

/// A failed command: what happened, why, and what the user can do.
#[derive(Debug)]
pub(crate) struct CliError {
    kind: Kind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    hints: Vec<String>,
    parts: Vec<CliError>,
}

/// Who has to act. Each kind is one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The input or the machine: a wrong recipe, a missing file, no coordinator.
    User,
    /// The command line itself.
    Usage,
    /// The experiment ended, but not all of it worked.
    Incomplete,
    /// Somebody asked for the end; everything is kept.
    Interrupted,
    /// The coordinator went away; trying again can help.
    Connection,
    /// The reader of the output went away. Nobody has to act.
    BrokenPipe,
    /// A mistake in Brine.
    Internal,
}

/// Every exit code with its meaning; `--help` prints this table.
pub(crate) const EXIT_CODES: [(u8, &str); 6] = [
    (0, "done"),
    (1, "the input or the machine: the error says what to change"),
    (2, "the command line is wrong"),
    (3, "the experiment ended failed or cancelled, or some of its trials failed (`run`, `watch`)"),
    (4, "interrupted; everything is kept and the same command goes on"),
    (70, "a mistake in Brine"),
];

impl Kind {
    /// The exit code of the process.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::User | Self::Connection => 1,
            Self::Usage => 2,
            Self::Incomplete => 3,
            Self::Interrupted => 4,
            Self::Internal => 70,
        }
    }
}

impl CliError {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message, source: None, hints: Vec::new(), parts: Vec::new() }
    }

    /// The command failed and its errors were printed already.
    pub(crate) fn said(kind: Kind) -> Self {
        Self::new(kind, "")
    }

    /// Whether there is nothing left to print.
    pub(crate) fn is_said(&self) -> bool {
        self.message.is_empty()
    }

    /// The input or the machine is at fault.
    pub(crate) fn user(message: impl Into<String>) -> Self {
        Self::new(Kind::User, message)
    }

    /// The command line is at fault.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// The experiment ended without all of its results.
    pub(crate) fn incomplete(message: impl Into<String>) -> Self {
        Self::new(Kind::Incomplete, message)
    }

    /// The user asked for the end.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self::new(Kind::Interrupted, message)
    }

    /// The coordinator went away.
    pub(crate) fn connection(message: impl Into<String>) -> Self {
        Self::new(Kind::Connection, message)
    }

    /// The reader of stdout went away.
    pub(crate) fn broken_pipe() -> Self {
        Self::new(Kind::BrokenPipe, "stdout is closed")
    }

    /// Brine is at fault.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// A file or folder that could not be used: `what` is a verb and the path.
    pub(crate) fn file(what: impl Into<String>, source: std::io::Error) -> Self {
        let hints = [
            (ErrorKind::StorageFull, "free some space, or choose another folder with --data-dir"),
            (ErrorKind::PermissionDenied, "check the owner and the permissions of the path"),
        ];
        let hint = hints.iter().find(|(kind, _)| *kind == source.kind()).map(|(_, hint)| *hint);
        let error = Self::user(format!("cannot {}", what.into())).because(source);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// Adds what caused it.
    pub(crate) fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what the user can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the errors that it sums up, which are printed before it.
    pub(crate) fn sums_up(mut self, parts: Vec<Self>) -> Self {
        self.parts = parts;
        self
    }

    /// The errors that it sums up.
    pub(crate) fn parts(&self) -> &[Self] {
        &self.parts
    }

    /// Whether the coordinator went away and may come back.
    pub(crate) fn is_connection(&self) -> bool {
        self.kind == Kind::Connection
    }

    /// Which kind it is.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind.exit_code())
    }
}

/// The whole text for stderr: `error:`, every cause that adds something, then the hints.
impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.kind {
            Kind::Interrupted => "interrupted",
            Kind::Internal => "internal error",
            Kind::User | Kind::Connection | Kind::Usage | Kind::Incomplete | Kind::BrokenPipe => {
                "error"
            }
        };
        write!(f, "{word}: {}", self.message)?;
        let mut said = self.message.clone();
        let mut cause: Option<&dyn Error> = self.source.as_deref().map(|source| source as _);
        while let Some(error) = cause {
            let text = error.to_string();
            // Some libraries repeat their source inside their own text.
            if !said.contains(&text) {
                write!(f, "\ncaused by: {text}")?;
                said = text;
            }
            cause = error.source();
        }
        for hint in &self.hints {
            write!(f, "\nhint: {hint}")?;
        }
        if self.kind == Kind::Internal {
            write!(f, "\nhint: please report this with the command line and the text above")?;
        }
        Ok(())
    }
}

impl Error for CliError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The one place where a refused call becomes words for the user.
impl From<tonic::Status> for CliError {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code;
        let message = status.message().to_owned();
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => {
                Self::user("the coordinator refused the token")
                    .because(message)
                    .hint(
                        "give the coordinator's token file with --token-file or BRINE_TOKEN_FILE; \
                         it is the file `token` in the coordinator's data folder",
                    )
            }
            Code::NotFound
            | Code::InvalidArgument
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::ResourceExhausted => {
                let (message, hints) = split_hints(&message);
                let error = Self::user(message);
                hints.into_iter().fold(error, Self::hint)
            }
            Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled => {
                Self::connection("the connection to the coordinator broke")
                    .because(message)
                    .hint("check that the coordinator still runs, then try again")
            }
            Code::Unimplemented => {
                Self::user("the coordinator does not know this request")
                    .because(message)
                    .hint("the coordinator and this command are of different versions; install the same one")
            }
            // No answer of the coordinator: what carries the answers broke.
            Code::Unknown | Code::Internal if status.source().is_some() => {
                Self::connection("the connection to the coordinator broke")
                    .because(message)
                    .hint("check that the coordinator still runs, then try again")
            }
            Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => {
                Self::internal("the coordinator failed").because(message)
            }
        }
    }
}

/// A coordinator's message may carry `hint: ...` lines of its own; they keep their place
/// at the end.
fn split_hints(message: &str) -> (String, Vec<String>) {
    let mut text = Vec::new();
    let mut hints = Vec::new();
    for line in message.lines() {
        match line.strip_prefix("hint: ") {
            Some(hint) => hints.push(hint.to_owned()),
            None => text.push(line.strip_prefix("error: ").unwrap_or(line)),
        }
    }
    (text.join("\n"), hints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_causes_and_then_what_to_do() {
        let disk = std::io::Error::new(std::io::ErrorKind::StorageFull, "no space left");
        let error = CliError::file("write report.html", disk);
        assert_eq!(
            error.to_string(),
            "error: cannot write report.html\n\
             caused by: no space left\n\
             hint: free some space, or choose another folder with --data-dir"
        );
    }

    #[test]
    fn a_cause_that_repeats_its_effect_is_said_once() {
        let error = CliError::user("cannot connect: refused").because("refused");
        assert_eq!(error.to_string(), "error: cannot connect: refused");
    }

    #[test]
    fn a_refused_call_has_the_kind_of_who_must_act() {
        #[track_caller]
        fn check(status: tonic::Status, kind: Kind, text: &str) {
            let error = CliError::from(status);
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains(text), "{error}");
        }
        check(tonic::Status::unauthenticated("wrong token"), Kind::User, "--token-file");
        check(tonic::Status::not_found("no experiment x"), Kind::User, "error: no experiment x");
        check(
            tonic::Status::invalid_argument("error: bad key\nhint: did you mean data"),
            Kind::User,
            "error: bad key\nhint: did you mean data",
        );
        check(tonic::Status::unavailable("reset"), Kind::Connection, "reset");
        check(tonic::Status::internal("oops"), Kind::Internal, "report this");
    }

    #[test]
    fn every_kind_has_a_documented_exit_code() {
        for kind in [
            Kind::User,
            Kind::Connection,
            Kind::Usage,
            Kind::Incomplete,
            Kind::Interrupted,
            Kind::BrokenPipe,
            Kind::Internal,
        ] {
            let code = kind.exit_code();
            assert!(EXIT_CODES.iter().any(|(known, _)| *known == code), "{kind:?}");
        }
    }
}
