"""Reports: a frozen value in, a PDF, XLSX, DOCX or JSON file out, the same bytes from the same value everywhere."""
