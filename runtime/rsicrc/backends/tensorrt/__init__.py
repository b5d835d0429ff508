"""The backend `tensorrt`, for the libraries `tensorrt` 10 and 11 and `tensorrt_rtx`, whose interfaces hardly differ."""
