"""Published packages that ship ONNX files: what is fetched, what each model is fed, our techniques and their peers."""
