"""Typed clients, one per service: the only way to call another service. They take and return `moontune.values`.

    async with TrainerClient("127.0.0.1:7053", Credentials(api_key=key)) as trainer:
        result = await trainer.train_step(TrainStep(finetune_id, "", groups))

    with SyncInferenceClient("127.0.0.1:7054") as inference:      # moontune.clients.sync
        answer = inference.answer(InferenceRequest(model, request))

A client owns deadlines, retries (with the service's RetryInfo), request ids and the mapping of errors back to
`moontune.errors`. Between our services: `Credentials(internal_token=...)`; the organisation is the caller's.
"""
