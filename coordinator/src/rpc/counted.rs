//! Counts every call by its method, refused ones by their code too.

use crate::measures::Measures;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Code;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

/// A gRPC service whose calls are counted.
#[derive(Clone)]
pub(crate) struct Counted<S> {
    inner: S,
    measures: Measures,
}

impl<S> Counted<S> {
    pub(crate) fn new(inner: S, measures: Measures) -> Self {
        Self { inner, measures }
    }
}

impl<S: NamedService> NamedService for Counted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, Body, Answer> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Answer>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let measures = self.measures.clone();
        let method = measures.called(request.uri().path());
        let answered = self.inner.call(request);
        Box::pin(async move {
            let answer = answered.await?;
            // Only an answer that is nothing but a status has it in its head.
            let code =
                answer.headers().get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
            if let Some(code) = code.filter(|code| *code != Code::Ok) {
                measures.refused(method, code);
            }
            Ok(answer)
        })
    }
}
