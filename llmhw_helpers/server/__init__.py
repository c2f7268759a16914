"""The engine behind the paths of OpenAI's API: a request's fields, the worker that steps the engine, the replies."""
