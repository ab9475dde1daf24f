{"wait", [&] { return backend.wait(); }},
