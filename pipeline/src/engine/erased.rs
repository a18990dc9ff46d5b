//! DataFusion's session and plans behind trait objects.
//!
//! Nothing about them changes but what the compiler must look through: `SessionState` and `LogicalPlan`
//! are large types that hold each other, and to find out that a future is `Send` the compiler walks all
//! that it holds, anew for every `async` body. A trait object that says `Send + Sync` ends the walk.
//! So whatever lives across an `.await` is held as a [`Session`] or a [`Plan`].

use std::ops::Deref;
use std::sync::Arc;

use datafusion::prelude::{DataFrame, SessionContext};

trait HoldsSession: Send + Sync {
    fn session(&self) -> &SessionContext;
}

impl HoldsSession for SessionContext {
    fn session(&self) -> &SessionContext {
        self
    }
}

/// The engine: tables are read, and plans made and run, through it.
#[derive(Clone)]
pub struct Session(Arc<dyn HoldsSession>);

impl From<SessionContext> for Session {
    fn from(session: SessionContext) -> Self {
        Self(Arc::new(session))
    }
}

impl Deref for Session {
    type Target = SessionContext;

    fn deref(&self) -> &SessionContext {
        self.0.session()
    }
}

trait HoldsPlan: Send + Sync {
    fn plan(&self) -> &DataFrame;
}

impl HoldsPlan for DataFrame {
    fn plan(&self) -> &DataFrame {
        self
    }
}

/// Rows that have not been read yet.
#[derive(Clone)]
pub struct Plan(Arc<dyn HoldsPlan>);

impl Plan {
    /// The same rows, to build on.
    pub fn frame(&self) -> DataFrame {
        self.0.plan().clone()
    }
}

impl From<DataFrame> for Plan {
    fn from(frame: DataFrame) -> Self {
        Self(Arc::new(frame))
    }
}

impl From<Plan> for DataFrame {
    fn from(plan: Plan) -> Self {
        plan.frame()
    }
}

impl Deref for Plan {
    type Target = DataFrame;

    fn deref(&self) -> &DataFrame {
        self.0.plan()
    }
}
