// Imported before a model card's code: it takes its models from the Hub of the test, and keeps them in its folder.
import { env } from "@huggingface/transformers";

env.remoteHost = process.env.HF_ENDPOINT;
env.cacheDir = process.env.HF_HOME;
env.allowLocalModels = false;
